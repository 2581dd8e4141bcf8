//! `sealkv keys`: list them, give a prefix its own, start a new version, back up the root key.

use clap::Subcommand;
use proto::sealkv::v1::keys_client::KeysClient;
use proto::sealkv::v1::{
    KeysAddRequest, KeysListRequest, KeysListResponse, KeysRotateRequest, PrefixKey, Slot,
};
use serde_json::{Value, json};

use super::connect::connect;
use super::key_bundle::{self, Backup};
use super::output::{Format, Table, json_bytes, print, print_json, show_bytes};
use super::{CliError, Global};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Prefix keys with their versions, and the slots that open the root. No secret is shown.
    List,
    /// Give a prefix a key of its own. Records that exist keep the key they are sealed with.
    Add {
        /// Not empty: the empty prefix has a key from the first start.
        prefix: String,
    },
    /// Start a new version of a prefix's key; new values are sealed with it.
    Rotate {
        /// Exactly as `list` shows it; '' for the empty prefix.
        prefix: String,
    },
    /// Save the root key under a passphrase, in a file that opens backups when the members' own
    /// keys are lost. It takes the key file or passphrase of the member that is asked.
    Backup(Backup),
}

pub(super) async fn run(command: &Command, global: &Global) -> Result<(), CliError> {
    let mut client = KeysClient::new(connect(global).await?);
    match command {
        Command::List => {
            let listed = client.list(KeysListRequest {}).await?.into_inner();
            print_list(&listed, global.write_out)?;
        }
        Command::Add { prefix } => {
            let request = KeysAddRequest {
                prefix: prefix.clone().into(),
            };
            let added = client.add(request).await?.into_inner();
            print_key(added.key, global.write_out, "has its own key")?;
        }
        Command::Rotate { prefix } => {
            let request = KeysRotateRequest {
                prefix: prefix.clone().into(),
            };
            let rotated = client.rotate(request).await?.into_inner();
            print_key(
                rotated.key,
                global.write_out,
                "is sealed under a new version",
            )?;
        }
        Command::Backup(backup) => key_bundle::run(backup, client, global.write_out).await?,
    }
    Ok(())
}

fn print_list(listed: &KeysListResponse, format: Format) -> std::io::Result<()> {
    match format {
        Format::Json => print_json(&json!({
            "keyring_id": hex::encode(&listed.keyring_id),
            "root_version": listed.root_version,
            "keys": listed.keys.iter().map(key_json).collect::<Vec<_>>(),
            "slots": listed.slots.iter().map(slot_json).collect::<Vec<_>>(),
        })),
        Format::Table => {
            let mut keys = Table::new(&["ID", "PREFIX", "CURRENT", "VERSIONS", "CREATED"]);
            for key in &listed.keys {
                let current = key.versions.iter().find(|version| version.current);
                keys.row([
                    key.id.to_string(),
                    show_bytes(&key.prefix),
                    current.map_or("-".to_owned(), |version| version.version.to_string()),
                    key.versions.len().to_string(),
                    current.map_or("-".to_owned(), |version| show_time(version.created_ms)),
                ]);
            }
            let mut slots = Table::new(&["SLOT", "MEMBER", "PROVIDER", "PROVEN"]);
            for slot in &listed.slots {
                slots.row([
                    slot.id.to_string(),
                    format!("{:x}", slot.member_id),
                    slot.provider.clone(),
                    slot.proven.to_string(),
                ]);
            }
            print(&format!(
                "keyring {}, root version {}\n\n{}\n{}",
                hex::encode(&listed.keyring_id),
                listed.root_version,
                keys.text(),
                slots.text()
            ))
        }
    }
}

fn print_key(key: Option<PrefixKey>, format: Format, says: &str) -> Result<(), CliError> {
    let key = key.ok_or(CliError::Incomplete { field: "key" })?;
    match format {
        Format::Json => print_json(&key_json(&key))?,
        Format::Table => {
            let current = key.versions.iter().find(|version| version.current);
            print(&format!(
                "{} {says}: key {}, version {}\n",
                show_bytes(&key.prefix),
                key.id,
                current.map_or(0, |version| version.version)
            ))?;
        }
    }
    Ok(())
}

fn key_json(key: &PrefixKey) -> Value {
    let versions = key.versions.iter().map(|version| {
        json!({
            "version": version.version,
            "current": version.current,
            "created_ms": version.created_ms,
        })
    });
    json!({
        "id": key.id,
        "prefix": json_bytes(&key.prefix),
        "versions": versions.collect::<Vec<_>>(),
    })
}

fn slot_json(slot: &Slot) -> Value {
    json!({
        "id": slot.id,
        "member_id": format!("{:x}", slot.member_id),
        "provider": slot.provider,
        "public_key": hex::encode(&slot.public_key),
        "proven": slot.proven,
    })
}

/// UTC, to the second.
pub(super) fn show_time(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1000);
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (
        second_of_day / 3600,
        second_of_day % 3600 / 60,
        second_of_day % 60,
    );
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day counted from 1970-01-01, counting years from March so that the
/// leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let since_0000_03_01 = days + 719_468;
    let (era, day_of_era) = (
        since_0000_03_01.div_euclid(146_097),
        since_0000_03_01.rem_euclid(146_097),
    );
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(show_time(0), "1970-01-01T00:00:00Z");
        assert_eq!(show_time(951_782_399_999), "2000-02-28T23:59:59Z");
        assert_eq!(show_time(951_868_800_000), "2000-03-01T00:00:00Z");
        assert_eq!(show_time(1_795_435_200_000), "2026-11-23T12:00:00Z");
        assert_eq!(show_time(-1), "1969-12-31T23:59:59Z");
    }
}
