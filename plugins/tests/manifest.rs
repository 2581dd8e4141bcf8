//! Drafts of manifests: any texts and numbers are a manifest or mistakes that say what is wrong.

use std::fmt;
use std::time::Duration;

use plugins::{Digest, LimitsDraft, Manifest, ManifestDraft, Settings};
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..12)
}

/// Shown when a test fails; here no settings are secret.
#[derive(Clone)]
struct Draft(ManifestDraft);

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let draft = &self.0;
        f.debug_struct("Draft")
            .field("name", &draft.name)
            .field("watch_prefixes", &draft.watch_prefixes)
            .field("write_prefixes", &draft.write_prefixes)
            .field("settings_json", &draft.settings_json)
            .field("sha256", &draft.sha256)
            .field("limits", &draft.limits)
            .finish_non_exhaustive()
    }
}

/// Few letters, so that prefixes meet.
fn prefixes() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let prefix = prop::collection::vec(prop::sample::select(vec![0, b'a', 0xff]), 0..4);
    let short = prop::collection::vec(prefix, 0..4);
    let many = prop::collection::vec(bytes(), 0..80);
    prop_oneof![9 => short, 1 => many]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{0,70}",
        any::<String>(),
        "[0-9a-fA-Fé]{62,66}",
        "\\{(\"[a-z]\":(1|\"x\"|null|\\[\\]),?){0,3}\\}",
        // Deeper than any parser should follow by recursion.
        (0..4_000_usize).prop_map(|depth| format!("{{\"a\":{}", "[".repeat(depth))),
    ]
}

prop_compose! {
    fn limits()(
        memory_bytes in any::<Option<usize>>(),
        deadline in any::<Option<Duration>>(),
        host_calls in any::<Option<u32>>(),
        log_lines_per_second in any::<Option<u32>>(),
        none in any::<bool>(),
    ) -> LimitsDraft {
        let given = LimitsDraft {
            memory_bytes,
            on_events_deadline: deadline,
            host_calls,
            log_lines_per_second,
        };
        if none { LimitsDraft::default() } else { given }
    }
}

prop_compose! {
    fn draft()(
        name in prop::option::of(text()),
        watch_prefixes in prefixes(),
        write_prefixes in prefixes(),
        settings_json in prop_oneof![Just(String::new()), text()],
        flags in any::<[bool; 5]>(),
        sha256 in prop::option::weighted(0.2, text()),
        limits in limits(),
    ) -> Draft {
        let [prev_kv, keys_only, start_at_snapshot, suspend_on_reject, feedback] = flags;
        Draft(ManifestDraft {
            name,
            watch_prefixes,
            write_prefixes,
            settings_json,
            prev_kv,
            keys_only,
            start_at_snapshot,
            suspend_on_reject,
            feedback,
            sha256,
            limits,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_draft_is_a_manifest_or_mistakes(Draft(draft) in draft(), key in bytes(), end in bytes()) {
        match Manifest::parse(&draft, "index", Digest::of(b"component")) {
            Err(mistakes) => {
                prop_assert!(!mistakes.0.is_empty());
                prop_assert!(mistakes.0.iter().all(|mistake| !mistake.to_string().is_empty()));
            }
            Ok(manifest) => {
                prop_assert!(draft.watch_prefixes.iter().all(|prefix| manifest.watches(prefix)));
                prop_assert!(draft.write_prefixes.iter().all(|prefix| !prefix.is_empty()));
                let inside = draft.write_prefixes.iter().any(|prefix| key.starts_with(prefix));
                prop_assert_eq!(manifest.may_write(&key, b""), inside);
                // A range that may be written begins where its first key may be.
                prop_assert!(!manifest.may_write(&key, &end) || end.is_empty() || inside || end <= key);
                prop_assert!(Settings::parse(manifest.settings().json()).is_ok());
            }
        }
    }

    #[test]
    fn any_settings_are_an_object_or_a_mistake(text in text()) {
        if let Ok(settings) = Settings::parse(&text) {
            prop_assert_eq!(Settings::parse(settings.json()).ok(), Some(settings));
        }
    }

    #[test]
    fn any_text_is_a_digest_or_none(text in text()) {
        if let Some(digest) = Digest::parse_hex(&text) {
            prop_assert_eq!(digest.to_string(), text.to_lowercase());
        }
    }
}
