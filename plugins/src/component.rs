//! A component that passed every check: compiled, linked, and asked who it is.
//!
//! Promise: a [`Compiled`] exports the watch hook of a supported contract, imports nothing
//! the host does not link, and describes itself within the rules.

use std::sync::Arc;

use wasmtime::component::Component;

use crate::HOOKS_PACKAGE;
use crate::capabilities::Capabilities;
use crate::contract::WatchPluginPre;
use crate::digest::Digest;
use crate::engine::{Host, WASI_INTERFACES};
use crate::error::{CallError, ComponentError, EngineFault};
use crate::hooks::Descriptor;
use crate::host_calls::NoHostCalls;
use crate::instance::{Call, State, call};
use crate::limits::{COMPONENT_BYTES_MAX, Limits};
use crate::manifest::{PluginName, Settings};
use crate::workers::Workers;

const HOOK_INTERFACES: [&str; 7] = [
    "config", "kv", "lease", "logging", "metrics", "secrets", "types",
];
const VERSION_BYTES_MAX: usize = 64;
const DESCRIPTION_BYTES_MAX: usize = 1_024;
const SCHEMA_BYTES_MAX: usize = 64 * 1024;

/// A component ready to run. Cheap to clone.
#[derive(Clone)]
pub struct Compiled {
    runnable: Runnable,
    descriptor: Arc<Descriptor>,
    imports: Arc<[String]>,
    digest: Digest,
}

/// A linked component and the threads to run it on.
#[derive(Clone)]
pub(crate) struct Runnable {
    pub(crate) plugin: WatchPluginPre<State>,
    pub(crate) workers: Arc<Workers>,
}

/// Compiled and linked, not yet asked who it is.
pub(crate) struct Undescribed {
    runnable: Runnable,
    imports: Vec<String>,
    digest: Digest,
}

impl Compiled {
    /// Blocks for as long as compiling takes.
    pub(crate) fn compile(host: &Host, bytes: &[u8]) -> Result<Undescribed, ComponentError> {
        check_header(bytes)?;
        let digest = Digest::of(bytes);
        let component = Component::from_binary(host.engine(), bytes)
            .map_err(|error| ComponentError::Invalid(EngineFault(error)))?;
        let kind = component.component_type();
        check_exports(kind.exports(host.engine()).map(|(name, _)| name))?;
        let imports = kind.imports(host.engine()).map(|(name, _)| name);
        let imports: Vec<String> = imports.map(str::to_owned).collect();
        check_imports(&imports)?;
        let plugin = host
            .linker
            .instantiate_pre(&component)
            .and_then(WatchPluginPre::new)
            .map_err(|error| ComponentError::Contract(EngineFault(error)))?;
        Ok(Undescribed {
            runnable: Runnable {
                plugin,
                workers: Arc::clone(&host.workers),
            },
            imports,
            digest,
        })
    }

    /// What the component says about itself.
    pub fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Every interface it imports, as it names them: what the operator is shown.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn runnable(&self) -> Runnable {
        self.runnable.clone()
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("descriptor", &self.descriptor)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Undescribed {
    /// Calls `describe` with no capability granted.
    pub(crate) async fn described(self) -> Result<Compiled, ComponentError> {
        let runnable = self.runnable.clone();
        let described = self.runnable.workers.run(async move {
            let nothing = Capabilities::none(Settings::default(), Arc::new(NoHostCalls));
            call(
                &runnable.plugin,
                nothing,
                &Limits::lifecycle(),
                |plugin, store| Box::pin(plugin.sealkv_hooks_lifecycle().call_describe(store)),
            )
            .await
        });
        let Call { result, .. } = described.await.map_err(|_| ComponentError::Stopped)?;
        let descriptor: Descriptor = match result {
            Ok(descriptor) => descriptor.into(),
            Err(CallError::Abandoned) => return Err(ComponentError::Stopped),
            Err(error) => return Err(ComponentError::Describe(error)),
        };
        check_descriptor(&descriptor)?;
        Ok(Compiled {
            runnable: self.runnable,
            descriptor: Arc::new(descriptor),
            imports: self.imports.into(),
            digest: self.digest,
        })
    }
}

/// "\0asm", then version and layer: 1 and 0 for a module, 13 and 1 for a component.
fn check_header(bytes: &[u8]) -> Result<(), ComponentError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(ComponentError::TooLarge { bytes: bytes.len() });
    }
    match bytes {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', ..] => Err(ComponentError::CoreModule),
        _ => Err(ComponentError::NotWasm),
    }
}

fn check_exports<'a>(exports: impl Iterator<Item = &'a str>) -> Result<(), ComponentError> {
    let (mut lifecycle, mut watcher) = (false, false);
    for export in exports {
        let Some(("sealkv:hooks", interface, version)) = split(export) else {
            continue;
        };
        if interface == "admission" {
            return Err(ComponentError::Admission);
        }
        if version != hooks_version() {
            let found = export.to_owned();
            return Err(ComponentError::HooksVersion { found });
        }
        lifecycle |= interface == "lifecycle";
        watcher |= interface == "watcher";
    }
    match (lifecycle, watcher) {
        (true, true) => Ok(()),
        (_, false) => Err(ComponentError::NoWatcher {
            missing: "sealkv:hooks/watcher",
        }),
        (false, true) => Err(ComponentError::NoWatcher {
            missing: "sealkv:hooks/lifecycle",
        }),
    }
}

fn check_imports(imports: &[String]) -> Result<(), ComponentError> {
    let forbidden = |import: &&String| !linked(import);
    let imports: Vec<String> = imports.iter().filter(forbidden).cloned().collect();
    if imports.is_empty() {
        Ok(())
    } else {
        Err(ComponentError::ForbiddenImports { imports })
    }
}

fn linked(import: &str) -> bool {
    match split(import) {
        Some(("sealkv:hooks", interface, version)) => {
            version == hooks_version() && HOOK_INTERFACES.contains(&interface)
        }
        Some((package, interface, version)) => {
            let named = |known: &&str| known.split_once('/') == Some((package, interface));
            version.starts_with("0.2.") && WASI_INTERFACES.iter().any(named)
        }
        None => false,
    }
}

/// `namespace:package/interface@version`.
fn split(name: &str) -> Option<(&str, &str, &str)> {
    let (name, version) = name.split_once('@')?;
    let (package, interface) = name.split_once('/')?;
    Some((package, interface, version))
}

fn hooks_version() -> &'static str {
    HOOKS_PACKAGE
        .split_once('@')
        .map_or("", |(_, version)| version)
}

fn check_descriptor(descriptor: &Descriptor) -> Result<(), ComponentError> {
    PluginName::parse(&descriptor.name).map_err(ComponentError::Name)?;
    let texts = [
        ("version", &descriptor.version, VERSION_BYTES_MAX),
        (
            "description",
            &descriptor.description,
            DESCRIPTION_BYTES_MAX,
        ),
        (
            "settings-schema",
            &descriptor.settings_schema,
            SCHEMA_BYTES_MAX,
        ),
    ];
    for (field, text, bytes_max) in texts {
        if text.len() > bytes_max {
            return Err(ComponentError::DescriptorTooLarge { field, bytes_max });
        }
    }
    let schema = &descriptor.settings_schema;
    let is_object =
        |text| serde_json::from_str(text).is_ok_and(|v: serde_json::Value| v.is_object());
    if schema.is_empty() || is_object(schema) {
        Ok(())
    } else {
        Err(ComponentError::SettingsSchema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_tells_components_from_modules_and_from_the_rest() {
        assert!(check_header(b"\0asm\x0d\0\x01\0rest").is_ok());
        assert!(matches!(
            check_header(b"\0asm\x01\0\0\0rest"),
            Err(ComponentError::CoreModule)
        ));
        assert!(matches!(check_header(b"ELF"), Err(ComponentError::NotWasm)));
        assert!(matches!(check_header(b""), Err(ComponentError::NotWasm)));
        assert!(matches!(
            check_header(&vec![0; COMPONENT_BYTES_MAX + 1]),
            Err(ComponentError::TooLarge { .. })
        ));
    }

    #[test]
    fn what_is_not_linked_is_named() {
        let imports = [
            "wasi:io/streams@0.2.6",
            "sealkv:hooks/kv@0.1.0",
            "wasi:sockets/tcp@0.2.6",
            "wasi:io/streams@0.3.0",
            "sealkv:hooks/kv@0.2.0",
            "run",
        ]
        .map(str::to_owned);
        let Err(ComponentError::ForbiddenImports { imports: named }) = check_imports(&imports)
        else {
            panic!("four of them are not linked");
        };
        assert_eq!(named, imports[2..]);
    }

    #[test]
    fn exports_decide_the_kind() {
        let exports = |names: &[&'static str]| check_exports(names.iter().copied());
        let lifecycle = "sealkv:hooks/lifecycle@0.1.0";
        assert!(exports(&[lifecycle, "sealkv:hooks/watcher@0.1.0"]).is_ok());
        assert!(matches!(
            exports(&[lifecycle, "sealkv:hooks/admission@0.1.0"]),
            Err(ComponentError::Admission)
        ));
        assert!(matches!(
            exports(&["sealkv:hooks/watcher@0.9.0"]),
            Err(ComponentError::HooksVersion { .. })
        ));
        assert!(matches!(
            exports(&[lifecycle]),
            Err(ComponentError::NoWatcher { missing }) if missing.ends_with("watcher")
        ));
        assert!(matches!(
            exports(&["sealkv:hooks/watcher@0.1.0"]),
            Err(ComponentError::NoWatcher { missing }) if missing.ends_with("lifecycle")
        ));
    }

    #[test]
    fn a_descriptor_follows_the_rules() {
        let good = Descriptor {
            name: "index".into(),
            version: "0.1.0".into(),
            description: String::new(),
            settings_schema: "{}".into(),
        };
        assert!(check_descriptor(&good).is_ok());
        let named = |name: &str| Descriptor {
            name: name.into(),
            ..good.clone()
        };
        assert!(matches!(
            check_descriptor(&named("../index")),
            Err(ComponentError::Name(_))
        ));
        let endless = Descriptor {
            description: "x".repeat(DESCRIPTION_BYTES_MAX + 1),
            ..good.clone()
        };
        assert!(matches!(
            check_descriptor(&endless),
            Err(ComponentError::DescriptorTooLarge {
                field: "description",
                ..
            })
        ));
        let schema = Descriptor {
            settings_schema: "[]".into(),
            ..good
        };
        assert!(matches!(
            check_descriptor(&schema),
            Err(ComponentError::SettingsSchema)
        ));
    }
}
