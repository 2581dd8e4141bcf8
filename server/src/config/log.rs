//! What the flags of the log mean together.
//!
//! Not known here: opening what they name.

use serde::Deserialize;

use super::mistake::Problem;
use super::settle::Settling;
use super::{LogFormat, LogLevel, LogOutput, LogRotation};

const MIB: u64 = 1024 * 1024;
/// Of `--log-rotation-config-json`, when it names none.
const FILE_MIB_DEFAULT: u32 = 100;

/// etcd's keys. Zero means the default size, and no limit for the others.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RotationJson {
    maxsize: u32,
    maxage: u32,
    maxbackups: u32,
    localtime: bool,
    compress: bool,
}

impl Settling<'_> {
    pub(super) fn log_level(&mut self) -> LogLevel {
        match self.given.text("log-level").unwrap_or("info") {
            "debug" => LogLevel::Debug,
            "info" => LogLevel::Info,
            "warn" => LogLevel::Warn,
            // Nothing is logged above error here.
            "error" | "dpanic" | "panic" | "fatal" => LogLevel::Error,
            _ => {
                let allowed = "debug, info, warn, error, panic or fatal";
                self.mistake("log-level", Problem::Choice { allowed });
                LogLevel::Info
            }
        }
    }

    pub(super) fn log_format(&mut self) -> LogFormat {
        if self.given.text("logger").unwrap_or("zap") != "zap" {
            self.mistake("logger", Problem::Choice { allowed: "zap" });
        }
        match self.given.text("log-format").unwrap_or("json") {
            "json" => LogFormat::Json,
            "console" => LogFormat::Console,
            _ => {
                let allowed = "json or console";
                self.mistake("log-format", Problem::Choice { allowed });
                LogFormat::Json
            }
        }
    }

    pub(super) fn log_outputs(&mut self) -> Vec<LogOutput> {
        let given = self.given.text("log-outputs").unwrap_or("default");
        let names: Vec<_> = given.split(',').collect();
        let alone = |name| names.contains(&name) && names.len() > 1;
        if let Some(output) = ["default", "systemd/journal"]
            .into_iter()
            .find(|n| alone(n))
        {
            self.mistake("log-outputs", Problem::OutputNotAlone { output });
        }
        let mut outputs = Vec::new();
        for name in names {
            let output = match name {
                "default" | "stderr" => LogOutput::Stderr,
                "stdout" => LogOutput::Stdout,
                "systemd/journal" => LogOutput::Journal,
                "" => {
                    self.mistake("log-outputs", Problem::Empty);
                    continue;
                }
                path => LogOutput::File(path.into()),
            };
            if !outputs.contains(&output) {
                outputs.push(output);
            }
        }
        outputs
    }

    pub(super) fn log_rotation(&mut self, outputs: &[LogOutput]) -> Option<LogRotation> {
        let on = self.given.bool("enable-log-rotation").unwrap_or(false);
        let json = self.given.text("log-rotation-config-json").unwrap_or("{}");
        let keys: RotationJson = match serde_json::from_str(json) {
            Ok(keys) => keys,
            Err(error) => {
                let why = error.to_string();
                self.mistake("log-rotation-config-json", Problem::RotationJson { why });
                return None;
            }
        };
        if !on {
            return None;
        }
        let is_file = |output: &&LogOutput| matches!(output, LogOutput::File(_));
        if outputs.iter().filter(is_file).count() != 1 {
            self.mistake("enable-log-rotation", Problem::RotationNeedsOneFile);
        }
        let megabytes = match keys.maxsize {
            0 => FILE_MIB_DEFAULT,
            megabytes => megabytes,
        };
        Some(LogRotation {
            bytes_max: u64::from(megabytes) * MIB,
            age_days_max: (keys.maxage > 0).then_some(keys.maxage),
            backups_max: usize::try_from(keys.maxbackups)
                .ok()
                .filter(|most| *most > 0),
            local_time: keys.localtime,
            compress: keys.compress,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, asking};
    use super::*;

    fn ask(arguments: &[&str]) -> Result<Config, String> {
        asking::ask(arguments).map_err(|error| error.mistakes()[0].to_string())
    }

    #[test]
    fn outputs_are_named_as_in_etcd() {
        let outputs = |flag: &str| ask(&[flag]).map(|config| config.log_outputs);
        assert_eq!(
            outputs("--log-outputs=default"),
            Ok(vec![LogOutput::Stderr])
        );
        assert_eq!(
            outputs("--log-outputs=stdout,/var/log/x,x,stdout"),
            Ok(vec![
                LogOutput::Stdout,
                LogOutput::File("/var/log/x".into()),
                LogOutput::File("x".into())
            ])
        );
        assert_eq!(
            outputs("--log-outputs=systemd/journal"),
            Ok(vec![LogOutput::Journal])
        );
        for wrong in ["default,x", "systemd/journal,stderr", "", "x,"] {
            let said = outputs(&format!("--log-outputs={wrong}")).unwrap_err();
            assert!(said.starts_with("--log-outputs"), "{said}");
        }
    }

    #[test]
    fn rotation_has_etcds_keys_and_defaults() {
        let rotation = |json: &str| {
            let json = format!("--log-rotation-config-json={json}");
            ask(&["--log-outputs=x", "--enable-log-rotation", &json]).map(|c| c.log_rotation)
        };
        let default = LogRotation {
            bytes_max: 100 * MIB,
            age_days_max: None,
            backups_max: None,
            local_time: false,
            compress: false,
        };
        assert_eq!(rotation("{}"), Ok(Some(default)));
        let json = r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;
        assert_eq!(rotation(json), Ok(Some(default)));
        let all =
            r#"{"maxsize": 1, "maxage": 2, "maxbackups": 3, "localtime": true, "compress": true}"#;
        assert_eq!(
            rotation(all),
            Ok(Some(LogRotation {
                bytes_max: MIB,
                age_days_max: Some(2),
                backups_max: Some(3),
                local_time: true,
                compress: true,
            }))
        );
        for wrong in [
            "",
            "{",
            r#"{"maxsize": "1"}"#,
            r#"{"size": 1}"#,
            r#"{"maxage": -1}"#,
        ] {
            let said = rotation(wrong).unwrap_err();
            assert!(said.starts_with("--log-rotation-config-json"), "{said}");
        }
    }

    #[test]
    fn rotation_needs_one_file() {
        for outputs in ["default", "stdout", "a,b", "systemd/journal"] {
            let outputs = format!("--log-outputs={outputs}");
            let said = ask(&[&outputs, "--enable-log-rotation"]).unwrap_err();
            assert!(said.contains("--enable-log-rotation"), "{said}");
        }
        let off = ask(&["--enable-log-rotation=false"]).unwrap();
        assert_eq!(off.log_rotation, None);
    }
}
