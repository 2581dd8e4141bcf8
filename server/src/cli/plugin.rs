//! `sealkv plugin`: deploy a component, look at what runs, pause, resume, remove.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use proto::sealkv::v1::plugin_deploy_request::Part;
use proto::sealkv::v1::plugins_client::PluginsClient;
use proto::sealkv::v1::{
    DeadLetter, PluginDeadLettersRequest, PluginDeleteRequest, PluginDeployRequest,
    PluginListRequest, PluginManifest, PluginPauseRequest, PluginResumeRequest, PluginStatus,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::connect::connect;
use super::keys::show_time;
use super::output::{Format, Table, json_bytes, print, print_json, show_bytes};
use super::{CliError, Global};

const CHUNK_BYTES: usize = 512 * 1024;
/// Twice what a server takes, so that the server's own message is seen; more is not read.
const COMPONENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Deploy a component, or a new generation of one.
    Deploy(Deploy),
    /// Plugins, their state and how far they are.
    List,
    /// What a plugin could not handle.
    DeadLetters { name: String },
    /// Stop delivering to a plugin; its place in the changes is kept.
    Pause { name: String },
    /// Deliver again, from where it stopped.
    Resume { name: String },
    /// Remove a plugin and its place in the changes.
    Delete { name: String },
}

#[derive(Debug, Args)]
pub(super) struct Deploy {
    /// The component.
    file: PathBuf,
    /// A prefix whose changes are delivered; may be repeated.
    #[arg(long = "watch", value_name = "PREFIX", required = true)]
    watch: Vec<String>,
    /// A prefix that the plugin may write; may be repeated.
    #[arg(long = "write", value_name = "PREFIX")]
    write: Vec<String>,
    /// 1 to 63 characters of a-z, 0-9 and '-'; the component's own name if not given.
    #[arg(long, default_value = "")]
    name: String,
    /// JSON, which the component checks.
    #[arg(long, default_value = "", value_name = "JSON")]
    settings: String,
    /// Deliver previous records with each event.
    #[arg(long)]
    prev_kv: bool,
    /// Deliver what the watched prefixes hold now, before any change.
    #[arg(long)]
    start_at_snapshot: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PluginFileError {
    #[error("{}: {error}", path.display())]
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{}: is not a file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{}: is larger than {max} bytes", path.display())]
    TooLarge { path: PathBuf, max: u64 },
    #[error("{}: is not a WebAssembly component", path.display())]
    NotWasm { path: PathBuf },
    #[error("--settings: {error}")]
    Settings { error: serde_json::Error },
}

pub(super) async fn run(command: &Command, global: &Global) -> Result<(), CliError> {
    let format = global.write_out;
    let upload = match command {
        Command::Deploy(deploy) => Some(deploy.upload()?),
        _ => None,
    };
    let mut client = PluginsClient::new(connect(global).await?);
    match command {
        Command::Deploy(_) => {
            let parts = tokio_stream::iter(upload.into_iter().flatten());
            let deployed = client.deploy(parts).await?.into_inner();
            print_plugin(deployed.plugin, format)?;
        }
        Command::List => {
            let listed = client.list(PluginListRequest {}).await?.into_inner();
            print_plugins(&listed.plugins, format)?;
        }
        Command::DeadLetters { name } => {
            let request = PluginDeadLettersRequest { name: name.clone() };
            let letters = client.dead_letters(request).await?.into_inner();
            print_dead_letters(&letters.dead_letters, format)?;
        }
        Command::Pause { name } => {
            let request = PluginPauseRequest { name: name.clone() };
            print_plugin(client.pause(request).await?.into_inner().plugin, format)?;
        }
        Command::Resume { name } => {
            let request = PluginResumeRequest { name: name.clone() };
            print_plugin(client.resume(request).await?.into_inner().plugin, format)?;
        }
        Command::Delete { name } => {
            client
                .delete(PluginDeleteRequest { name: name.clone() })
                .await?;
            match format {
                Format::Json => print_json(&json!({ "deleted": name }))?,
                Format::Table => print(&format!("{name} deleted\n"))?,
            }
        }
    }
    Ok(())
}

impl Deploy {
    /// The manifest, then the component in chunks.
    fn upload(&self) -> Result<Vec<PluginDeployRequest>, PluginFileError> {
        if !self.settings.is_empty() {
            serde_json::from_str::<Value>(&self.settings)
                .map_err(|error| PluginFileError::Settings { error })?;
        }
        let component = read_component(&self.file)?;
        let manifest = PluginManifest {
            name: self.name.clone(),
            watch_prefixes: self
                .watch
                .iter()
                .map(|prefix| prefix.clone().into())
                .collect(),
            write_prefixes: self
                .write
                .iter()
                .map(|prefix| prefix.clone().into())
                .collect(),
            settings_json: self.settings.clone(),
            prev_kv: self.prev_kv,
            start_at_snapshot: self.start_at_snapshot,
            sha256: hex::encode(Sha256::digest(&component)),
        };
        let chunks = component.chunks(CHUNK_BYTES);
        let chunks = chunks.map(|chunk| Part::Chunk(bytes::Bytes::copy_from_slice(chunk)));
        let parts = std::iter::once(Part::Manifest(manifest)).chain(chunks);
        Ok(parts
            .map(|part| PluginDeployRequest { part: Some(part) })
            .collect())
    }
}

fn read_component(path: &Path) -> Result<Vec<u8>, PluginFileError> {
    let at = || path.to_owned();
    let read = |error| PluginFileError::Read { path: at(), error };
    let file = std::fs::metadata(path).map_err(read)?;
    if !file.is_file() {
        return Err(PluginFileError::NotAFile { path: at() });
    }
    if file.len() > COMPONENT_BYTES_MAX {
        return Err(PluginFileError::TooLarge {
            path: at(),
            max: COMPONENT_BYTES_MAX,
        });
    }
    let component = std::fs::read(path).map_err(read)?;
    // WebAssembly's own four bytes; the server looks closer.
    if !component.starts_with(b"\0asm") {
        return Err(PluginFileError::NotWasm { path: at() });
    }
    Ok(component)
}

fn print_plugin(plugin: Option<PluginStatus>, format: Format) -> Result<(), CliError> {
    let plugin = plugin.ok_or(CliError::Incomplete { field: "plugin" })?;
    match format {
        Format::Json => print_json(&plugin_json(&plugin))?,
        Format::Table => print(&table(std::slice::from_ref(&plugin)))?,
    }
    Ok(())
}

fn print_plugins(plugins: &[PluginStatus], format: Format) -> std::io::Result<()> {
    match format {
        Format::Json => {
            let plugins: Vec<_> = plugins.iter().map(plugin_json).collect();
            print_json(&json!({ "plugins": plugins }))
        }
        Format::Table => print(&table(plugins)),
    }
}

fn table(plugins: &[PluginStatus]) -> String {
    let mut table = Table::new(&[
        "NAME",
        "VERSION",
        "GEN",
        "STATE",
        "WATCHES",
        "WRITES",
        "CURSOR",
        "LAG",
        "EFFECTS",
        "DEAD LETTERS",
        "ERROR",
    ]);
    let list = |prefixes: &[bytes::Bytes]| {
        prefixes
            .iter()
            .map(|prefix| show_bytes(prefix))
            .collect::<Vec<_>>()
            .join(",")
    };
    for plugin in plugins {
        table.row([
            plugin.name.clone(),
            plugin.version.clone(),
            plugin.generation.to_string(),
            plugin.state.clone(),
            list(&plugin.watch_prefixes),
            list(&plugin.write_prefixes),
            cursor(plugin),
            plugin.lag_revisions.to_string(),
            plugin.effects_committed.to_string(),
            plugin.dead_letters.to_string(),
            show_bytes(plugin.last_error.as_bytes())
                .trim_matches('"')
                .to_owned(),
        ]);
    }
    table.text()
}

/// A revision, and how much of it if it is not done whole.
fn cursor(plugin: &PluginStatus) -> String {
    match plugin.cursor_sub_revision {
        u32::MAX => plugin.cursor_revision.to_string(),
        sub => format!("{}.{sub}", plugin.cursor_revision),
    }
}

pub(super) fn plugin_json(plugin: &PluginStatus) -> Value {
    let list =
        |prefixes: &[bytes::Bytes]| prefixes.iter().map(|p| json_bytes(p)).collect::<Vec<_>>();
    json!({
        "name": plugin.name,
        "version": plugin.version,
        "generation": plugin.generation,
        "state": plugin.state,
        "sha256": plugin.sha256,
        "watch_prefixes": list(&plugin.watch_prefixes),
        "write_prefixes": list(&plugin.write_prefixes),
        "cursor_revision": plugin.cursor_revision,
        "cursor_sub_revision": plugin.cursor_sub_revision,
        "lag_revisions": plugin.lag_revisions,
        "dead_letters": plugin.dead_letters,
        "effects_committed": plugin.effects_committed,
        "puts_dropped_no_lease": plugin.puts_dropped_no_lease,
        "last_error": plugin.last_error,
    })
}

fn print_dead_letters(letters: &[DeadLetter], format: Format) -> std::io::Result<()> {
    match format {
        Format::Json => {
            let letters = letters.iter().map(|letter| {
                json!({
                    "revision": letter.revision,
                    "sub_revision": letter.sub_revision,
                    "key": json_bytes(&letter.key),
                    "error": letter.error,
                    "attempts": letter.attempts,
                    "recorded_ms": letter.recorded_ms,
                })
            });
            print_json(&json!({ "dead_letters": letters.collect::<Vec<_>>() }))
        }
        Format::Table => {
            let mut table = Table::new(&["REVISION", "KEY", "ATTEMPTS", "RECORDED", "ERROR"]);
            for letter in letters {
                table.row([
                    format!("{}.{}", letter.revision, letter.sub_revision),
                    show_bytes(&letter.key),
                    letter.attempts.to_string(),
                    show_time(letter.recorded_ms),
                    show_bytes(letter.error.as_bytes()),
                ]);
            }
            print(&table.text())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deploy(file: PathBuf, settings: &str) -> Deploy {
        Deploy {
            file,
            watch: vec!["/services/".into()],
            write: vec!["/index/".into()],
            name: String::new(),
            settings: settings.into(),
            prev_kv: false,
            start_at_snapshot: true,
        }
    }

    #[test]
    fn a_component_travels_in_chunks_behind_its_manifest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.wasm");
        let mut component = b"\0asm".to_vec();
        component.resize(CHUNK_BYTES + 1, 7);
        std::fs::write(&path, &component).unwrap();
        let parts = deploy(path, "{}").upload().unwrap();
        assert_eq!(parts.len(), 3);
        let Some(Part::Manifest(manifest)) = &parts[0].part else {
            panic!("{:?}", parts[0])
        };
        assert_eq!(manifest.sha256, hex::encode(Sha256::digest(&component)));
        let Some(Part::Chunk(last)) = &parts[2].part else {
            panic!("{:?}", parts[2])
        };
        assert_eq!(last.len(), 1);
    }

    #[test]
    fn what_is_no_component_is_refused_before_anything_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.wasm");
        let refused = |path: &Path, settings: &str| {
            deploy(path.to_owned(), settings)
                .upload()
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&path, "").contains("No such file"));
        assert!(refused(directory.path(), "").contains("is not a file"));
        std::fs::write(&path, b"(component)").unwrap();
        assert!(refused(&path, "").contains("not a WebAssembly component"));
        assert!(refused(&path, "{").starts_with("--settings: "));
    }
}
