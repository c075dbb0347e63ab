use std::fs::{self, File};
use std::io::Write;

use tempfile::TempDir;

use super::*;
use crate::config::producers::LongLines;
use crate::producers::tail::batch::BATCH_LINES;

/// A folder with logs, somebody who follows them, and what of that is on record.
struct Scene {
    folder: TempDir,
    pattern: String,
    start: Start,
    long_lines: LongLines,
    writable: Vec<PathBuf>,
    follower: Option<Follower>,
    records: BTreeMap<FileId, Record>,
    lines: Vec<String>,
    refused: u64,
    started: Vec<String>,
    now: Instant,
}

impl Scene {
    fn new(pattern: &str) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        Scene {
            pattern: folder.path().join(pattern).display().to_string(),
            folder,
            start: Start::Beginning,
            long_lines: LongLines::Split,
            writable: Vec::new(),
            follower: None,
            records: BTreeMap::new(),
            lines: Vec::new(),
            refused: 0,
            started: Vec::new(),
            now: Instant::now(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_ref()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn copy_truncate(&self, name: &str, copy: &str) {
        fs::copy(self.path(name), self.path(copy)).unwrap();
        File::options().write(true).truncate(true).open(self.path(name)).unwrap();
    }

    /// The process ends; what is not on record is forgotten.
    fn crash(&mut self) {
        self.follower = None;
    }

    /// Whether a file is on record, read at least so far. What comes and goes without ever being seen is nobody's.
    fn is_known(&self, name: &str, offset_min: u64) -> bool {
        let Ok(metadata) = fs::metadata(self.path(name)) else { return false };
        self.records.get(&FileId::of(&metadata)).is_some_and(|record| record.progress.offset >= offset_min)
    }

    fn follower(&mut self) -> &mut Follower {
        if self.follower.is_none() {
            let config = TailConfig {
                files: vec![self.pattern.clone()],
                start: self.start,
                line_bytes_max: 100,
                long_lines: self.long_lines,
                writable: self.writable.clone(),
            };
            let records = self.records.clone().into_iter().collect();
            let mut follower = Follower::new(&config, Patience::default(), records, self.now);
            self.records.extend(follower.begin(self.start, &self.started, self.now));
            self.started = vec![self.pattern.clone()];
            self.follower = Some(follower);
        }
        self.follower.as_mut().unwrap()
    }

    /// Looks once and reads what there is up to a batch. True if there is more. Nothing is on record yet.
    fn read(&mut self, look: bool) -> (Batch, bool) {
        let now = self.now;
        let mut batch = Batch::default();
        let follower = self.follower();
        if look {
            follower.look(&mut batch, now);
        }
        let more = follower.collect(&mut batch);
        (batch, more)
    }

    fn commit(&mut self, batch: &Batch) {
        for line in &batch.lines {
            self.lines.push(String::from_utf8_lossy(&line.body).into_owned());
        }
        // As the state keeps them.
        let kept = |(id, record): (FileId, Record)| {
            (FileId::from_key(&id.key()).unwrap(), Record::from_bytes(&record.to_bytes()).unwrap())
        };
        self.records.extend(batch.records(0..batch.lines.len()).into_iter().map(kept));
        self.records.extend(batch.others.clone().into_iter().map(kept));
        self.records.retain(|id, _| !batch.forgotten.contains(id));
        self.refused += batch.refused;
    }

    fn step(&mut self) {
        let (batch, mut more) = self.read(true);
        self.commit(&batch);
        while more {
            let (batch, again) = self.read(false);
            self.commit(&batch);
            more = again;
        }
    }

    /// So much time goes by, in steps.
    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.step();
        }
    }

    #[track_caller]
    fn expect(&mut self, lines: &[&str]) {
        self.step();
        assert_eq!(self.lines, lines);
    }
}

#[test]
fn a_file_is_followed_and_its_last_line_waits_for_its_end() {
    let mut scene = Scene::new("*.log");
    scene.append("a.log", "one\ntwo\nthr");
    scene.expect(&["one", "two"]);
    scene.wait(300);
    scene.append("a.log", "ee\n");
    scene.expect(&["one", "two", "three"]);
    scene.crash();
    scene.append("a.log", "four\n");
    scene.expect(&["one", "two", "three", "four"]);
}

#[test]
fn files_behind_a_folder_that_guests_may_write_are_not_read() {
    let link = |scene: &Scene, to: &str, at: &str| std::os::unix::fs::symlink(to, scene.path(at)).unwrap();
    let mut scene = Scene::new("logs/**/*.log");
    scene.writable = vec![scene.path("granted")];
    for folder in ["logs/sub", "out", "elsewhere"] {
        fs::create_dir_all(scene.path(folder)).unwrap();
    }
    for file in ["logs/a.log", "elsewhere/b.log", "out/c.log", "secret"] {
        scene.append(file, format!("{file}\n"));
    }
    // Links of others, to where guests write, and of a guest from there.
    link(&scene, "out", "granted");
    link(&scene, "../elsewhere/b.log", "logs/b.log");
    link(&scene, "../out/c.log", "logs/c.log");
    link(&scene, "../secret", "out/d.log");
    link(&scene, "../../out", "logs/sub/current");
    link(&scene, "../out/d.log", "logs/d.log");
    scene.step();
    scene.lines.sort();
    assert_eq!(scene.lines, ["elsewhere/b.log", "logs/a.log"]);
    let errors = scene.follower().take_errors();
    assert!(errors.iter().all(|error| error.contains("granted, which guests may write")), "{errors:?}");
    assert_eq!(errors.len(), 2, "{errors:?}");
    // Where nobody may write, they are followed.
    (scene.writable, scene.follower) = (Vec::new(), None);
    scene.step();
    scene.lines.sort();
    assert_eq!(scene.lines, ["elsewhere/b.log", "logs/a.log", "out/c.log", "secret"]);
}

#[test]
fn what_was_there_before_can_be_passed_over() {
    let mut scene = Scene::new("*.log");
    scene.start = Start::End;
    scene.append("a.log", "old\nbeing wri");
    scene.append("empty.log", "");
    scene.expect(&[]);
    scene.append("a.log", "tten\n");
    scene.append("empty.log", "first\n");
    scene.append("later.log", "from its beginning\n");
    scene.step();
    scene.lines.sort();
    assert_eq!(scene.lines, ["being written", "first", "from its beginning"]);
    scene.crash();
    scene.append("latest.log", "also after a restart\n");
    scene.step();
    assert_eq!(scene.lines.last().unwrap(), "also after a restart");

    // A pattern that is new passes over what only it names.
    scene.append("a.txt", "old\n");
    scene.append("another.log", "while it was down\n");
    scene.pattern = scene.pattern.replace("*.log", "*");
    scene.crash();
    scene.step();
    scene.append("a.txt", "new\n");
    scene.step();
    assert_eq!(scene.lines[4..], ["while it was down", "new"]);
}

#[test]
fn a_renamed_file_is_read_to_its_end_and_then_left() {
    for down in [false, true] {
        let mut scene = Scene::new("*.log");
        scene.append("a.log", "one\n");
        scene.step();
        if down {
            scene.crash();
        }
        scene.append("a.log", "two\n");
        scene.rename("a.log", "a.log.1");
        scene.append("a.log.1", "three\nand its rest");
        scene.append("a.log", "new one\n");
        scene.step();
        scene.lines.sort();
        assert_eq!(scene.lines, ["new one", "one", "three", "two"]);
        assert_eq!(scene.records.len(), 2);
        scene.wait(62);
        assert_eq!(scene.lines.last().unwrap(), "and its rest");
        assert_eq!(scene.records.len(), 1, "it is quiet, and no pattern names it");
        scene.crash();
        scene.wait(70);
        assert_eq!(scene.lines.len(), 5);
    }
}

#[test]
fn a_renamed_file_that_the_patterns_name_is_not_read_again() {
    let mut scene = Scene::new("a.log*");
    scene.append("a.log", "one\n");
    scene.step();
    for number in 1..5 {
        scene.rename("a.log", &format!("a.log.{number}"));
        scene.append("a.log", format!("next {number}\n"));
        if number % 2 == 0 {
            scene.crash();
        }
        scene.step();
    }
    scene.wait(100);
    assert_eq!(scene.lines, ["one", "next 1", "next 2", "next 3", "next 4"]);
}

#[test]
fn what_a_copy_truncate_leaves_in_the_copy_is_read() {
    for pattern in ["a.log", "a.log*"] {
        for down in [false, true] {
            let mut scene = Scene::new(pattern);
            scene.append("a.log", "one\n");
            scene.step();
            if down {
                scene.crash();
            }
            scene.append("a.log", "two\n");
            scene.copy_truncate("a.log", "a.log.1");
            // More than there was before: only its beginning tells that it is another content.
            scene.append("a.log", "after the truncation, and more than there was before\n");
            scene.step();
            scene.wait(10);
            scene.lines.sort();
            assert_eq!(
                scene.lines,
                ["after the truncation, and more than there was before", "one", "two"],
                "{pattern}, down: {down}"
            );
        }
    }
}

#[test]
fn a_copy_that_is_seen_before_the_truncation_is_not_read_twice() {
    let mut scene = Scene::new("a.log*");
    scene.append("a.log", "one\ntwo\n");
    scene.step();
    fs::copy(scene.path("a.log"), scene.path("a.log.1")).unwrap();
    scene.step();
    scene.append("a.log", "between copy and truncation\n");
    scene.wait(1);
    File::options().write(true).truncate(true).open(scene.path("a.log")).unwrap();
    scene.append("a.log", "new\n");
    scene.wait(100);
    assert_eq!(scene.lines, ["one", "two", "between copy and truncation", "new"]);
}

/// A look may come at any moment of it: when the copy is made, when a part is in it, before the truncation.
#[test]
fn a_copy_that_is_seen_while_it_is_made_is_not_read_twice() {
    for (read_before, down) in [(false, false), (true, false), (false, true), (true, true)] {
        for copy in ["a.log.1", "a-2026-11-29.log", "a.1.log"] {
            let mut scene = Scene::new("a*");
            scene.append("a.log", "one\n");
            if read_before {
                scene.step();
                scene.append("a.log", "two\n");
            }
            if down {
                scene.crash();
            }
            fs::write(scene.path(copy), "").unwrap();
            // As the first look at both, or the next one.
            scene.step();
            fs::write(scene.path(copy), "on").unwrap();
            scene.step();
            fs::copy(scene.path("a.log"), scene.path(copy)).unwrap();
            scene.step();
            File::options().write(true).truncate(true).open(scene.path("a.log")).unwrap();
            scene.append("a.log", "new\n");
            scene.wait(10);
            let expected: &[&str] = if read_before { &["one", "two", "new"] } else { &["one", "new"] };
            assert_eq!(scene.lines, expected, "{copy}, read before: {read_before}, down: {down}");
        }
    }
}

#[test]
fn a_file_of_which_nothing_is_read_and_its_copy_are_not_both_read() {
    for copy in ["a.log.1", "a-2026-11-29.log"] {
        let mut scene = Scene::new("a*");
        scene.append("a.log", "one\n");
        fs::copy(scene.path("a.log"), scene.path(copy)).unwrap();
        scene.step();
        File::options().write(true).truncate(true).open(scene.path("a.log")).unwrap();
        scene.append("a.log", "new\n");
        scene.wait(10);
        assert_eq!(scene.lines, ["one", "new"], "{copy}");
    }
}

#[test]
fn a_file_that_only_looks_like_a_copy_is_read_after_a_while() {
    let mut scene = Scene::new("*.log");
    scene.append("a.log", "started\n");
    scene.step();
    scene.append("a-2.log", "started\n");
    scene.expect(&["started"]);
    scene.wait(4);
    assert_eq!(scene.lines, ["started", "started"]);
}

#[test]
fn a_deleted_file_is_read_to_its_end() {
    let mut scene = Scene::new("*.log");
    scene.append("a.log", "one\n");
    scene.step();
    scene.append("a.log", "two\nrest");
    fs::remove_file(scene.path("a.log")).unwrap();
    scene.wait(7);
    assert_eq!(scene.lines, ["one", "two", "rest"]);
    assert!(scene.records.is_empty());
    scene.append("a.log", "new\n");
    scene.expect(&["one", "two", "rest", "new"]);
}

#[test]
fn a_log_that_is_compressed_as_soon_as_it_is_rotated_is_read_to_its_end() {
    let mut scene = Scene::new("*.log");
    let compress = |scene: &Scene, name: &str| {
        let rotated = format!("{name}.1");
        scene.rename(name, &rotated);
        scene.append(name, "new\n");
        fs::write(scene.path(&format!("{rotated}.gz")), "compressed").unwrap();
        fs::remove_file(scene.path(&rotated)).unwrap();
    };
    scene.append("a.log", "one\n");
    scene.step();
    scene.append("a.log", "two\n");
    compress(&scene, "a.log");
    scene.expect(&["one", "two", "new"]);
    // Nothing of this one was read, as others had their turn, but it was seen.
    scene.append("b.log", "three\n");
    let now = scene.now;
    let mut batch = Batch::default();
    scene.follower().look(&mut batch, now);
    scene.commit(&batch);
    scene.append("b.log", "four\n");
    compress(&scene, "b.log");
    scene.expect(&["one", "two", "new", "three", "four", "new"]);
    scene.wait(10);
    assert_eq!(scene.records.len(), 2);
}

#[test]
fn long_lines_are_split_or_refused() {
    let long = "x".repeat(250);
    let mut scene = Scene::new("*.log");
    scene.append("a.log", format!("{long}\nshort\n"));
    scene.expect(&[&long[..100], &long[..100], &long[..50], "short"]);
    let mut scene = Scene::new("*.log");
    scene.long_lines = LongLines::Refuse;
    scene.append("a.log", long.repeat(2000));
    scene.expect(&[]);
    scene.crash();
    scene.append("a.log", "end\nshort\n");
    scene.expect(&["short"]);
    assert_eq!(scene.refused, 1);
}

#[test]
fn many_files_need_few_descriptors_and_few_steps() {
    let mut scene = Scene::new("*.log");
    for number in 0..1500 {
        scene.append(&format!("{number}.log"), "line\n");
    }
    scene.step();
    assert_eq!(scene.lines.len(), 1500);
    let open = scene.follower().files.values().filter(|file| file.file.is_some()).count();
    assert!(open <= OPEN_MAX, "{open} files are open");
    for number in 0..1500 {
        scene.append(&format!("{number}.log"), "again\n");
    }
    scene.step();
    assert_eq!(scene.lines.len(), 3000);
}

#[test]
fn a_batch_is_bounded_and_goes_on_where_it_ended() {
    let mut scene = Scene::new("*.log");
    let text: String = (0..50_000).map(|number| format!("line {number}\n")).collect();
    scene.append("a.log", text);
    let (batch, more) = scene.read(true);
    assert!(more && batch.lines.len() <= BATCH_LINES, "{}", batch.lines.len());
    // Half of it is on record, as if the engine took no more.
    let half = batch.records(0..batch.lines.len() / 2);
    scene.records.extend(half);
    scene.lines = batch.lines[..batch.lines.len() / 2]
        .iter()
        .map(|line| String::from_utf8(line.body.to_vec()).unwrap())
        .collect();
    scene.crash();
    scene.step();
    assert_eq!(scene.lines.len(), 50_000);
    assert!(scene.lines.iter().enumerate().all(|(number, line)| *line == format!("line {number}")));
}

/// Somebody writes numbered lines and rotates in all ways; the process ends at any moment, before or after a commit.
#[test]
fn no_line_is_lost_or_doubled_whatever_happens_to_the_files() {
    for seed in 0..1500 {
        let mut random = fastrand::Rng::with_seed(seed);
        // A copy that the patterns do not name is only known by what was read of the original.
        let (pattern, copied_from) = if seed % 2 == 0 { ("app.log", 1) } else { ("app.log*", 0) };
        let mut scene = Scene::new(pattern);
        let (mut written, mut rotations) = (0, 0);
        let mut log = Vec::new();
        for _ in 0..60 {
            let doing = random.u32(..100);
            match doing {
                0..40 => {
                    for _ in 0..random.u32(1..6) {
                        scene.append("app.log", format!("{written} {}\n", "x".repeat(random.usize(..60))));
                        written += 1;
                    }
                }
                40..48 => {
                    // A line that is seen before it has its end.
                    scene.append("app.log", format!("{written} begun"));
                    scene.step();
                    scene.append("app.log", " and ended\n");
                    written += 1;
                }
                48..56 if scene.is_known("app.log", 0) => {
                    rotations += 1;
                    scene.rename("app.log", &format!("app.log.{rotations}"));
                }
                56..66 if scene.is_known("app.log", copied_from) => {
                    rotations += 1;
                    let copy = format!("app.log.{rotations}");
                    let content = fs::read(scene.path("app.log")).unwrap();
                    for part in [0, random.usize(..=content.len()), content.len()] {
                        fs::write(scene.path(&copy), &content[..part]).unwrap();
                        match random.u32(..8) {
                            0..3 => scene.step(),
                            3 => scene.crash(),
                            _ => {}
                        }
                    }
                    File::options().write(true).truncate(true).open(scene.path("app.log")).unwrap();
                    // Two truncations without a look between them are one too many for anybody.
                    scene.step();
                }
                66..90 => scene.step(),
                90..95 => {
                    // Read, and never put on record.
                    let _ = scene.read(true);
                    scene.crash();
                }
                _ => scene.crash(),
            }
            log.push(doing);
            scene.now += Duration::from_millis(random.u64(..800));
        }
        scene.wait(5);
        scene.crash();
        scene.wait(70);
        let mut numbers: Vec<u32> =
            scene.lines.iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        numbers.sort_unstable();
        let expected: Vec<u32> = (0..written).collect();
        assert_eq!(numbers, expected, "seed {seed}: {log:?}");
    }
}
