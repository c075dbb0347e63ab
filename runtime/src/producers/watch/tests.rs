use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::config::producers::WatchBody;

struct Scene {
    inbox: TempDir,
    config: WatchConfig,
    folder: Folder,
    now: Instant,
}

impl Scene {
    fn new(change: impl FnOnce(&mut WatchConfig)) -> Scene {
        let inbox = tempfile::tempdir().unwrap();
        let mut config = WatchConfig {
            folder: inbox.path().to_owned(),
            files: vec!["*".to_owned()],
            recursive: false,
            settle: Duration::from_millis(500),
            body: WatchBody::Content,
            after: After::Keep,
        };
        change(&mut config);
        Scene { folder: Folder::new(&config, Default::default()), inbox, config, now: Instant::now() }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inbox.path().join(name)
    }

    /// What is sent now, with its body; it is on record afterwards.
    fn send(&mut self) -> Vec<(String, String)> {
        let look = self.folder.look(self.now);
        assert_eq!(look.error, None);
        for id in look.gone {
            self.folder.sent.remove(&id);
        }
        let mut sent = Vec::new();
        let mut rest = look.due.into_iter();
        while rest.len() > 0 {
            let batch;
            (batch, rest) = read(&mut self.folder, rest);
            for (found, body) in batch.files {
                self.folder.sent.insert(found.id, found.version);
                sent.push((found.path.display().to_string(), String::from_utf8(body.to_vec()).unwrap()));
            }
        }
        sent
    }

    /// What is sent once everything is settled.
    fn settle(&mut self) -> Vec<(String, String)> {
        let early = self.send();
        self.now += self.config.settle;
        let later = self.send();
        [early, later].concat()
    }

    /// A new process, which knows what is on record.
    fn restart(&mut self) {
        let sent = std::mem::take(&mut self.folder.sent);
        self.folder = Folder::new(&self.config, sent);
    }
}

fn file(name: &str, body: &str) -> (String, String) {
    (name.to_owned(), body.to_owned())
}

#[test]
fn a_file_is_sent_once_when_it_is_complete() {
    let mut scene = Scene::new(|_| {});
    scene.write("a", "begun");
    assert_eq!(scene.send(), []);
    scene.now += Duration::from_millis(499);
    assert_eq!(scene.send(), []);
    scene.write("a", "begun and ended");
    scene.now += Duration::from_millis(1);
    assert_eq!(scene.send(), [], "it has changed in between");
    scene.now += Duration::from_millis(500);
    assert_eq!(scene.send(), [file("a", "begun and ended")]);
    assert_eq!(scene.settle(), []);
    scene.restart();
    assert_eq!(scene.settle(), []);
    // Under another name it is still the same; with another content it is not.
    fs::rename(scene.path("a"), scene.path("b")).unwrap();
    assert_eq!(scene.settle(), []);
    scene.write("b", "something else");
    assert_eq!(scene.settle(), [file("b", "something else")]);
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut scene = Scene::new(|_| {});
    scene.write("a", "1");
    scene.write("b", "2");
    assert_eq!(scene.settle().len(), 2);
    fs::remove_file(scene.path("a")).unwrap();
    scene.settle();
    assert_eq!(scene.folder.sent.len(), 1);
    // A folder that is not there has lost nothing.
    let elsewhere = scene.inbox.path().with_extension("elsewhere");
    fs::rename(scene.inbox.path(), &elsewhere).unwrap();
    let look = scene.folder.look(scene.now);
    assert!(look.error.unwrap().contains("can't look into") && look.gone.is_empty());
    fs::rename(&elsewhere, scene.inbox.path()).unwrap();
    assert_eq!(scene.settle(), []);
}

#[test]
fn patterns_and_folders_say_which_files_are_meant() {
    let mut flat = Scene::new(|config| config.files = vec!["*.csv".to_owned(), "[0-9]".to_owned()]);
    let mut deep = Scene::new(|config| {
        (config.files, config.recursive) = (vec!["*.csv".to_owned(), "sub/*.txt".to_owned()], true);
    });
    let names = ["a.csv", ".hidden.csv", "a.txt", "7", "sub/b.csv", "sub/c.txt", "other/c.txt", ".git/d.csv"];
    let mut all = Vec::new();
    for scene in [&mut flat, &mut deep] {
        names.iter().for_each(|name| scene.write(name, ""));
        std::os::unix::fs::symlink(scene.path("a.csv"), scene.path("link.csv")).unwrap();
        fs::hard_link(scene.path("a.csv"), scene.path("b.csv")).unwrap();
        let mut sent: Vec<_> = scene.settle().into_iter().map(|(path, _)| path.replace("b.csv", "a.csv")).collect();
        sent.sort();
        all.push(sent);
    }
    assert_eq!(all[0], ["7", "a.csv"]);
    assert_eq!(all[1], ["a.csv", "sub/a.csv", "sub/c.txt"]);
}

#[test]
fn a_file_that_is_too_large_is_left_alone() {
    let mut scene = Scene::new(|_| {});
    scene.write("large", &"x".repeat((1 << 20) + 1));
    scene.write("largest", &"x".repeat(1 << 20));
    let sent = scene.settle();
    assert_eq!(sent.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["largest"]);
    assert!(scene.folder.look(scene.now).due.is_empty(), "it is not tried again");
    let mut scene = Scene::new(|config| config.body = WatchBody::Path);
    scene.write("large", &"x".repeat((1 << 20) + 1));
    let path = fs::canonicalize(scene.path("large")).unwrap();
    assert_eq!(scene.settle(), [file("large", path.to_str().unwrap())]);
}

#[test]
fn what_has_changed_since_is_neither_sent_nor_touched() {
    let mut scene = Scene::new(|_| {});
    scene.write("a", "one");
    scene.send();
    scene.now += Duration::from_secs(1);
    let found = scene.folder.look(scene.now).due.remove(0);
    scene.write("a", "longer");
    assert!(matches!(scene.folder.read(&found).unwrap(), Content::Changed));
    assert_eq!(afterwards::run(&mut scene.folder, &After::Delete, std::slice::from_ref(&found)), [""; 0]);
    assert!(scene.path("a").exists());
    fs::remove_file(scene.path("a")).unwrap();
    assert!(matches!(scene.folder.read(&found).unwrap(), Content::Changed));
    assert_eq!(afterwards::run(&mut scene.folder, &After::Delete, &[found]), [""; 0]);
}

#[test]
fn a_file_that_was_sent_is_moved_or_deleted_also_after_a_restart() {
    let done = tempfile::tempdir().unwrap();
    for after in [After::Move(done.path().to_owned()), After::Delete] {
        let mut scene = Scene::new(|config| (config.recursive, config.after) = (true, after.clone()));
        scene.write("sub/a", "1");
        assert_eq!(scene.settle(), [file("sub/a", "1")]);
        scene.restart();
        let look = scene.folder.look(scene.now);
        assert_eq!((look.due.len(), look.sent.len()), (0, 1));
        assert_eq!(afterwards::run(&mut scene.folder, &after, &look.sent), [""; 0]);
        assert!(!scene.path("sub/a").exists());
        assert_eq!(scene.folder.look(scene.now).gone.len(), 1);
    }
    assert_eq!(fs::read_to_string(done.path().join("sub/a")).unwrap(), "1");
}
