//! A sandbox with something to break out to.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use linecook::config::{DirGrant, Grants, Limits};
use linecook::delivery::Outcome;
use linecook::sandbox::{InstanceSettings, Module, Report};
use serde_json::{Value, json};

use crate::kitchen::{Kitchen, component, sent, settings};

/// A guest with a folder to read and one to write, beside a file that it must not see.
pub(crate) struct Cell {
    pub(crate) kitchen: Kitchen,
    pub(crate) settings: Arc<InstanceSettings>,
    pub(crate) module: Module,
}

impl Cell {
    pub(crate) fn new(guest: &str, change: impl FnOnce(&mut InstanceSettings)) -> Cell {
        let kitchen = Kitchen::new(2);
        let root = kitchen.folder.path();
        fs::write(root.join("secret"), "recipe").unwrap();
        for name in ["read", "write"] {
            fs::create_dir(root.join(name)).unwrap();
            fs::write(root.join(name).join("menu"), "soup").unwrap();
        }
        let dirs = [("read", false), ("write", true)].map(|(name, write)| DirGrant {
            host: root.join(name),
            guest: format!("/{name}"),
            write,
        });
        let grants = Grants { dirs: dirs.into(), ..settings().grants };
        let limits = Limits { cpu_time: Some(Duration::from_secs(1)), ..Limits::default() };
        let mut settings = InstanceSettings { grants, limits, timeout: Duration::from_secs(10), ..settings() };
        change(&mut settings);
        let settings = Arc::new(settings);
        let module = kitchen.load(&component(guest), &settings).unwrap();
        Cell { kitchen, settings, module }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.kitchen.folder.path().join(name)
    }

    pub(crate) fn call(&self, command: &Value) -> Report {
        self.kitchen.call(&self.module, &self.settings, &command.to_string())
    }

    #[track_caller]
    pub(crate) fn refused(&self, command: &Value) {
        let report = self.call(command);
        let Outcome::DeadLetter { reason } = &report.outcome else { panic!("{command}: {report:?}") };
        assert!(!reason.starts_with("the body is not"), "the guest knows no such command: {command}: {reason}");
        assert!(report.sends.is_empty(), "{command}: {:?}", sent(&report));
    }

    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> String {
        let report = self.call(&json!({ "do": "read", "path": path }));
        assert_eq!(report.outcome, Outcome::Ack, "{path}");
        sent(&report)[0].1["read"].as_str().unwrap().to_owned()
    }
}
