//! Which seeds there are, who runs them, and what came of all of them.

use std::io::Write as _;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::happened::Happened;

/// The seeds of one scenario: no other has the same ones.
pub(super) struct Seeds {
    range: Range<u64>,
    next: AtomicU64,
}

impl Seeds {
    const fn new(range: Range<u64>) -> Seeds {
        Seeds { next: AtomicU64::new(range.start), range }
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

pub(super) static POWER_LOSSES: Seeds = Seeds::new(0..3000);
pub(super) static POWER_LOSSES_ON_SEGMENTS: Seeds = Seeds::new(60_000..60_160);
pub(super) static POWER_LOSSES_ON_STATE: Seeds = Seeds::new(80_000..80_060);
pub(super) static LONG_RUNS: Seeds = Seeds::new(10_000..12_000);
pub(super) static KILLS: Seeds = Seeds::new(20_000..23_000);
pub(super) static KILLS_ON_STATE: Seeds = Seeds::new(81_000..81_600);
pub(super) static ERRORS: Seeds = Seeds::new(30_000..30_800);
pub(super) static ERRORS_ON_SEGMENTS: Seeds = Seeds::new(31_000..31_150);
pub(super) static ERRORS_ON_STATE: Seeds = Seeds::new(82_000..82_030);
pub(super) static OTHER_ERRORS: Seeds = Seeds::new(33_000..33_060);
pub(super) static FULL_DISKS: Seeds = Seeds::new(40_000..42_500);
pub(super) static FULL_DISKS_ON_STATE: Seeds = Seeds::new(83_000..83_700);
pub(super) static TROUBLES: Seeds = Seeds::new(90_000..98_000);

static ALL: [&Seeds; 13] = [
    &POWER_LOSSES,
    &POWER_LOSSES_ON_SEGMENTS,
    &POWER_LOSSES_ON_STATE,
    &LONG_RUNS,
    &KILLS,
    &KILLS_ON_STATE,
    &ERRORS,
    &ERRORS_ON_SEGMENTS,
    &ERRORS_ON_STATE,
    &OTHER_ERRORS,
    &FULL_DISKS,
    &FULL_DISKS_ON_STATE,
    &TROUBLES,
];

/// How many seeds there must be in a run of the tests.
const SEEDS_MIN: u64 = 20_000;

/// What came of the seeds so far.
static TOTAL: Mutex<Total> = Mutex::new(Total { began: None, took: Duration::ZERO, seeds: 0, happened: None });

struct Total {
    began: Option<Instant>,
    took: Duration,
    seeds: u64,
    happened: Option<Happened>,
}

/// Puts a run on the account, whoever's seed it has.
pub(super) fn account(happened: &Happened) {
    let mut total = TOTAL.lock().unwrap();
    total.happened.get_or_insert_default().add_all(happened);
}

/// Does the same with each seed, on all cores. The last of all scenarios prints what all of them came to.
pub(super) fn for_each(seeds: &Seeds, check: impl Fn(u64) + Sync) {
    TOTAL.lock().unwrap().began.get_or_insert_with(Instant::now);
    spread(&seeds.next, seeds.range.end, check);
    let mut total = TOTAL.lock().unwrap();
    total.seeds += seeds.len();
    total.took = total.began.expect("it has begun").elapsed();
    if total.seeds == ALL.iter().map(|seeds| seeds.len()).sum() {
        total.show();
    }
}

/// Does the same with seeds that are on nobody's account.
pub(super) fn for_each_of(seeds: Range<u64>, check: impl Fn(u64) + Sync) {
    spread(&AtomicU64::new(seeds.start), seeds.end, check);
}

fn spread(next: &AtomicU64, end: u64, check: impl Fn(u64) + Sync) {
    let failed = AtomicUsize::new(0);
    let work = || {
        while failed.load(Ordering::Relaxed) == 0 {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(seed))) {
                failed.fetch_add(1, Ordering::Relaxed);
                eprintln!("the failing seed is {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

impl Total {
    /// Past the harness, which keeps what a test that passes prints to itself.
    fn show(&self) {
        let (Some(happened), seconds) = (&self.happened, self.took.as_secs_f64()) else { return };
        let hours = happened.of("simulated ms") as f64 / 3_600_000.0;
        let _ = writeln!(
            std::io::stderr(),
            "simulation: {} seeds, {} runs in {seconds:.1} s; a second of test time is {:.1} simulated hours, {:.0} steps, \
             {:.0} disk operations\nsimulation: {happened}",
            self.seeds,
            happened.of("runs"),
            hours / seconds,
            happened.of("steps") as f64 / seconds,
            happened.of("disk operations") as f64 / seconds,
        );
    }
}

#[test]
fn there_are_enough_seeds_and_no_two_scenarios_share_any() {
    let mut ranges: Vec<_> = ALL.iter().map(|seeds| seeds.range.clone()).collect();
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.is_sorted_by(|one, next| one.end <= next.start), "{ranges:?}");
    let seeds: u64 = ALL.iter().map(|seeds| seeds.len()).sum();
    assert!(seeds >= SEEDS_MIN, "only {seeds} seeds");
}
