//! Where the registrations are and where the index goes.

use serde::Deserialize;
use serde_json::{Map, Value};

pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "properties": {
    "services_prefix": { "type": "string", "pattern": "/$", "default": "/services/" },
    "index_prefix": { "type": "string", "pattern": "/$", "default": "/index/" }
  },
  "additionalProperties": false
}"#;

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) services_prefix: String,
    pub(crate) index_prefix: String,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            services_prefix: "/services/".to_owned(),
            index_prefix: "/index/".to_owned(),
        }
    }
}

impl Settings {
    pub(crate) fn parse(json: &str) -> Result<Settings, String> {
        let text = |error: serde_json::Error| error.to_string();
        // By way of a map: serde would take an array of the two for the object.
        let object: Map<String, Value> = serde_json::from_str(json).map_err(text)?;
        let settings: Settings = serde_json::from_value(object.into()).map_err(text)?;
        settings.checked()
    }

    /// From the settings as the host hands them out, which were validated at deploy.
    pub(crate) fn from_members(members: Vec<(String, String)>) -> Result<Settings, String> {
        let mut settings = Settings::default();
        for (name, value) in members {
            match name.as_str() {
                "services_prefix" => settings.services_prefix = value,
                "index_prefix" => settings.index_prefix = value,
                _ => return Err(format!("unknown setting {name}")),
            }
        }
        settings.checked()
    }

    fn checked(self) -> Result<Settings, String> {
        let (services, index) = (&self.services_prefix, &self.index_prefix);
        if !services.ends_with('/') || !index.ends_with('/') {
            return Err("services_prefix and index_prefix must end in '/'".to_owned());
        }
        if services.starts_with(index) || index.starts_with(services) {
            return Err("services_prefix and index_prefix must not overlap".to_owned());
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_defaults() {
        assert_eq!(Settings::parse("{}"), Ok(Settings::default()));
        let moved = Settings::parse(r#"{"index_prefix": "/hosts/"}"#).expect("valid");
        assert_eq!(moved.index_prefix, "/hosts/");
        assert_eq!(moved.services_prefix, "/services/");
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for bad in [
            "[]",
            r#"["/services/", "/index/"]"#,
            r#"{"index_prefix": "/index"}"#,
            r#"{"index_prefix": "/services/index/"}"#,
            r#"{"services_prefix": "/"}"#,
            r#"{"index_prefx": "/index/"}"#,
            r#"{"index_prefix": 7}"#,
        ] {
            assert!(Settings::parse(bad).is_err(), "{bad}");
        }
    }
}
