//! The contract, generated from `plugins/wit`.

#![allow(missing_docs, reason = "generated")]

wit_bindgen::generate!({
    path: "../wit/v0.1.0",
    world: "watch-plugin",
    pub_export_macro: true,
    export_macro_name: "export_watch_plugin",
});
