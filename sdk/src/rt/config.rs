//! The host's `wasi:config/store`.

use std::collections::BTreeMap;

#[allow(missing_docs, unsafe_code, clippy::all, reason = "generated from the interface, whose ABI is raw memory")]
mod generated {
    wit_bindgen::generate!({
        inline: "
            package linecook:sdk-config;
            world config {
                import wasi:config/store@0.2.0-rc.1;
            }
        ",
        path: "wit",
        world: "linecook:sdk-config/config",
        generate_all,
    });
}

use generated::wasi::config::store;

pub(crate) fn get(key: &str) -> Option<String> {
    store::get(key).unwrap_or_else(|error| panic!("can't read the value of {key:?}: {error:?}"))
}

pub(crate) fn get_all() -> BTreeMap<String, String> {
    store::get_all().unwrap_or_else(|error| panic!("can't read the values: {error:?}")).into_iter().collect()
}
