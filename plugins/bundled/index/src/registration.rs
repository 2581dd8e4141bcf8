//! What a registration is, and where its index record stands.

use serde_json::{Map, Value};

use crate::settings::Settings;

const HOST_BYTES_MAX: usize = 253;

/// Why a value is no registration. The text never shows the value: it becomes a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRegistration {
    Absent,
    Shape,
    Host,
    Port,
}

impl NoRegistration {
    pub(crate) fn text(self) -> &'static str {
        match self {
            NoRegistration::Absent => "the value is not readable for the plugin",
            NoRegistration::Shape => "the value is no JSON object with host and port",
            NoRegistration::Host => "host is not 1 to 253 printable ASCII characters without '/'",
            NoRegistration::Port => "port is not between 1 and 65535",
        }
    }
}

/// The host a registration's value names.
pub(crate) fn host(value: Option<&[u8]>) -> Result<String, NoRegistration> {
    let value = value.ok_or(NoRegistration::Absent)?;
    let object: Map<String, Value> =
        serde_json::from_slice(value).map_err(|_| NoRegistration::Shape)?;
    let host = object.get("host").and_then(Value::as_str);
    let port = object.get("port").and_then(Value::as_number);
    let (host, port) = host.zip(port).ok_or(NoRegistration::Shape)?;
    let printable = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    if !(1..=HOST_BYTES_MAX).contains(&host.len()) || !host.bytes().all(printable) {
        return Err(NoRegistration::Host);
    }
    match port.as_u64() {
        Some(1..=65_535) => Ok(host.to_owned()),
        _ => Err(NoRegistration::Port),
    }
}

/// `NAME/ID` of a registration's key; `None` for a key that is none.
pub(crate) fn instance<'a>(settings: &Settings, key: &'a [u8]) -> Option<&'a [u8]> {
    let instance = key.strip_prefix(settings.services_prefix.as_bytes())?;
    let segments: Vec<_> = instance.split(|byte| *byte == b'/').collect();
    match segments[..] {
        [name, id] if !name.is_empty() && !id.is_empty() => Some(instance),
        _ => None,
    }
}

/// Where the record of an instance on a host stands. Hosts have no '/', so no two
/// registrations share a record.
pub(crate) fn record(settings: &Settings, host: &str, instance: &[u8]) -> Vec<u8> {
    [
        settings.index_prefix.as_bytes(),
        host.as_bytes(),
        b"/",
        instance,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_names_its_host() {
        let value = br#"{"host": "node-1", "port": 8080, "weight": 3}"#;
        assert_eq!(host(Some(value)), Ok("node-1".to_owned()));
        assert_eq!(
            host(Some(br#"{"host":"[::1]","port":1}"#)),
            Ok("[::1]".to_owned())
        );
    }

    #[test]
    fn anything_else_is_no_registration() {
        let refused = |value: &str| host(Some(value.as_bytes())).expect_err(value);
        for shape in [
            "",
            "7",
            "{}",
            r#"{"host":"a"}"#,
            r#"{"host":"a","port":"80"}"#,
            r#"{"host":1,"port":1}"#,
            r#"["a", 80]"#,
            "\u{fffd}{",
        ] {
            assert_eq!(refused(shape), NoRegistration::Shape, "{shape}");
        }
        for bad in ["", "a/b", "a b", "ä", &"x".repeat(254)] {
            let value = format!(r#"{{"host":"{bad}","port":1}}"#);
            assert_eq!(refused(&value), NoRegistration::Host, "{bad}");
        }
        for port in ["0", "-1", "65536", "1.5", "99999999999999999999"] {
            let value = format!(r#"{{"host":"a","port":{port}}}"#);
            assert_eq!(refused(&value), NoRegistration::Port, "{port}");
        }
        assert_eq!(host(None), Err(NoRegistration::Absent));
    }

    #[test]
    fn a_key_with_another_number_of_segments_is_no_registration() {
        let settings = Settings::default();
        let found = instance(&settings, b"/services/web/1");
        assert_eq!(found, Some(&b"web/1"[..]));
        for other in [
            "/services/",
            "/services/web",
            "/services/web/",
            "/services//1",
            "/services/web/1/2",
            "/service/web/1",
        ] {
            assert_eq!(instance(&settings, other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn the_record_stands_below_its_host() {
        let key = record(&Settings::default(), "node-1", b"web/1");
        assert_eq!(key, b"/index/node-1/web/1");
    }
}
