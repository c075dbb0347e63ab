//! The settler against a broker that answers as it is told.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::broker::{PeekedMessage, Pending, Published, QueueLimits, QueueStats, Redrive, Redriven};
use crate::delivery::{NewMessage, Outgoing, QueueName, StateWrite};
use crate::status::Board;
use bytes::Bytes;

/// Gives the answers in order, then `Ok`; keeps what it was asked.
#[derive(Default)]
struct Scripted {
    answers: Mutex<VecDeque<BrokerError>>,
    calls: Mutex<Vec<Vec<Settlement>>>,
    extended: Mutex<Vec<Lease>>,
}

impl Broker for Scripted {
    fn settle(&self, settlements: Vec<Settlement>) -> Pending<'_, Vec<Result<(), BrokerError>>> {
        // Like the embedded engine, it hears of the call only when it is polled.
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut answers = self.answers.lock().unwrap();
            let answer = settlements.iter().map(|_| answers.pop_front().map_or(Ok(()), Err)).collect();
            self.calls.lock().unwrap().push(settlements);
            answer
        })
    }

    fn declare(&self, _: &QueueName, _: QueueLimits) -> Pending<'_, Result<(), BrokerError>> {
        unreachable!()
    }
    fn retract(&self, _: &QueueName) -> Pending<'_, Result<(), BrokerError>> {
        unreachable!()
    }
    fn publish(&self, _: &QueueName, _: Vec<NewMessage>) -> Pending<'_, Result<Vec<Published>, BrokerError>> {
        unreachable!()
    }
    fn publish_all(&self, _: Vec<Outgoing>, _: Vec<StateWrite>) -> Pending<'_, Result<Vec<Published>, BrokerError>> {
        unreachable!()
    }
    fn state(&self, _: &str, _: &str) -> Result<Option<Bytes>, BrokerError> {
        unreachable!()
    }
    fn state_keys(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<Box<str>>, BrokerError> {
        unreachable!()
    }
    fn claim(&self, _: &QueueName, _: usize, _: Duration) -> Pending<'_, Result<Vec<Delivery>, BrokerError>> {
        unreachable!()
    }
    fn begin(&self, _: Lease) -> bool {
        unreachable!()
    }
    fn extend(&self, lease: Lease, _: Duration) -> Result<(), BrokerError> {
        self.extended.lock().unwrap().push(lease);
        Ok(())
    }
    fn queues(&self) -> Pending<'_, Result<Vec<QueueStats>, BrokerError>> {
        unreachable!()
    }
    fn queue(&self, _: &QueueName) -> Pending<'_, Result<QueueStats, BrokerError>> {
        unreachable!()
    }
    fn peek(&self, _: &QueueName, _: usize) -> Pending<'_, Result<Vec<PeekedMessage>, BrokerError>> {
        unreachable!()
    }
    fn claim_expired(
        &self,
        _: &QueueName,
        _: Duration,
        _: usize,
        _: Duration,
    ) -> Pending<'_, Result<Vec<Delivery>, BrokerError>> {
        unreachable!()
    }

    fn purge(&self, _: &QueueName) -> Pending<'_, Result<u64, BrokerError>> {
        unreachable!()
    }

    fn redrive(&self, _: Redrive) -> Pending<'_, Result<Redriven, BrokerError>> {
        unreachable!()
    }
    fn failure(&self) -> Option<String> {
        None
    }
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn full(name: &str) -> BrokerError {
    BrokerError::QueueFull { queue: queue(name), bytes_max: 10 }
}

fn delivery(sequence: u64, attempt: u32) -> Delivery {
    crate::delivery::sample(sequence, attempt, 1)
}

fn handled(sequence: u64, attempt: u32) -> Handled {
    Handled::new(&delivery(sequence, attempt), ModuleHash([0xab; 32]), "tail".into())
}

fn sends() -> Vec<Outgoing> {
    vec![Outgoing { queue: queue("audit"), message: NewMessage { body: "hello".into(), ..NewMessage::default() } }]
}

struct Bench {
    broker: Arc<Scripted>,
    board: Board,
    settler: Settler,
}

impl Bench {
    fn new(answers: impl IntoIterator<Item = BrokerError>) -> Bench {
        let broker = Arc::new(Scripted { answers: Mutex::new(answers.into_iter().collect()), ..Scripted::default() });
        let policy = Policy {
            consumer: "welcome".into(),
            queue: queue("signups"),
            retries_max: 4,
            retry_delay: Duration::from_secs(1),
            retry_delay_max: Duration::from_secs(600),
            dead_letter_queue: queue("signups.dead"),
        };
        let board = Board::default();
        let counters = board.counters("welcome", "signups");
        let mut settler = Settler::new(broker.clone(), Arc::new(policy), counters);
        settler.again = Duration::from_millis(5);
        Bench { broker, board, settler }
    }

    /// Sends and waits until all is on record, and gives what the broker was asked, call by call.
    fn finish(&mut self) -> Vec<Vec<Settlement>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            while !self.settler.is_empty() {
                self.settler.send();
                self.settler.answered().await.unwrap();
            }
        });
        std::mem::take(&mut self.broker.calls.lock().unwrap())
    }

    fn counts(&self) -> (u64, u64, u64) {
        let status = &self.board.all()[0];
        (status.acked, status.failed, status.dead_lettered)
    }
}

#[test]
fn results_wait_for_more_until_there_are_many_or_handlers_ran_for_long() {
    let mut bench = Bench::new([]);
    let ack = |bench: &mut Bench, sequence| bench.settler.settle(handled(sequence, 1), Outcome::Ack, Vec::new());
    (1..GATHERED_MAX as u64).for_each(|sequence| ack(&mut bench, sequence));
    assert!(bench.settler.can_send() && !bench.settler.must_send());
    ack(&mut bench, GATHERED_MAX as u64);
    assert!(bench.settler.must_send());
    bench.settler.send();
    assert!(!bench.settler.can_send());
    ack(&mut bench, 1001);
    for must_send in [false, true] {
        bench.settler.spent(GATHERING_MAX / 2);
        assert_eq!(bench.settler.must_send(), must_send);
    }
    bench.settler.send();
    ack(&mut bench, 1002);
    bench.settler.spent(GATHERING_MAX * 2);
    assert!(!bench.settler.must_send(), "two calls are under way");
    let mut calls: Vec<usize> = bench.finish().iter().map(Vec::len).collect();
    // The first two were under way together, in no order.
    calls.sort_unstable();
    assert_eq!(calls, [1, 1, GATHERED_MAX]);
}

#[test]
fn a_result_of_a_handler_that_ran_long_is_sent_at_once() {
    let mut bench = Bench::new([]);
    bench.settler.settle(handled(1, 1), Outcome::Ack, Vec::new());
    bench.settler.spent(GATHERING_MAX * 2);
    assert!(!bench.settler.can_send() && bench.settler.has_calls());
}

#[test]
fn an_ack_that_is_refused_does_not_count() {
    let mut bench = Bench::new([BrokerError::LeaseLost, BrokerError::Read("no".into())]);
    (1..=5).for_each(|sequence| bench.settler.settle(handled(sequence, 1), Outcome::Ack, Vec::new()));
    assert_eq!(bench.finish().iter().map(Vec::len).collect::<Vec<_>>(), [5]);
    assert_eq!(bench.counts(), (3, 0, 0));
}

#[test]
fn acks_alone_go_beside_what_else_there_is() {
    let mut bench = Bench::new([]);
    bench.settler.settle(handled(1, 1), Outcome::Ack, Vec::new());
    bench.settler.settle(handled(2, 1), Outcome::Ack, sends());
    bench.settler.settle(handled(3, 1), Outcome::Retry { reason: "no".into(), after: None }, Vec::new());
    bench.settler.send();
    assert!(!bench.settler.can_send(), "all of it is under way");
    let mut calls: Vec<Vec<u64>> =
        bench.finish().iter().map(|call| call.iter().map(|one| one.lease.position).collect()).collect();
    calls.sort_unstable();
    assert_eq!(calls, [vec![1], vec![2, 3]]);
    assert_eq!(bench.counts(), (2, 1, 0));
}

#[test]
fn what_waits_goes_in_one_call() {
    let mut bench = Bench::new([]);
    for sequence in 0..5 {
        bench.settler.settle(handled(sequence, 1), Outcome::Ack, sends());
    }
    let calls = bench.finish();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].iter().map(|one| one.lease.position).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(calls[0].iter().all(|one| one.resolution == Resolution::Ack && one.sends == sends()));
    assert_eq!(bench.counts(), (5, 0, 0));
}

#[test]
fn a_call_is_no_longer_than_the_limit_and_only_so_many_are_under_way() {
    let mut bench = Bench::new([]);
    for sequence in 0..(3 * BATCH_MAX as u64) {
        bench.settler.settle(handled(sequence, 1), Outcome::Ack, Vec::new());
    }
    assert!(!bench.settler.has_room());
    bench.settler.send();
    bench.settler.send();
    assert!(!bench.settler.can_send() && bench.settler.gathered() > 0);
    assert_eq!(bench.finish().iter().map(Vec::len).collect::<Vec<_>>(), [BATCH_MAX; 3]);
    assert!(bench.settler.has_room());
}

#[test]
fn many_bytes_of_sends_leave_no_room_either() {
    let mut bench = Bench::new([]);
    let message = NewMessage { body: vec![0; UNSETTLED_BYTES_MAX].into(), ..NewMessage::default() };
    bench.settler.settle(handled(1, 1), Outcome::Ack, vec![Outgoing { queue: queue("audit"), message }]);
    assert!(!bench.settler.has_room());
    bench.finish();
    assert!(bench.settler.has_room());
}

#[test]
fn a_failed_attempts_sends_never_were() {
    let mut bench = Bench::new([]);
    bench.settler.settle(handled(1, 1), Outcome::Retry { reason: "no".into(), after: None }, sends());
    bench.settler.settle(handled(2, 1), Outcome::Snooze { after: Duration::from_secs(1) }, sends());
    bench.settler.settle(handled(3, 1), Outcome::DeadLetter { reason: "no".into() }, sends());
    assert!(bench.finish()[0].iter().all(|one| one.sends.is_empty()));
    assert_eq!(bench.counts(), (0, 2, 1));
}

fn disk_full() -> BrokerError {
    BrokerError::StoreFull("the disk is full".into())
}

#[test]
fn what_puts_a_message_off_is_asked_for_again_until_the_disk_has_room() {
    let mut bench = Bench::new((0..6).map(|_| disk_full()));
    bench.settler.settle(handled(1, 2), Outcome::Retry { reason: "no".into(), after: None }, Vec::new());
    bench.settler.settle(handled(2, 1), Outcome::Snooze { after: Duration::from_secs(7) }, Vec::new());
    bench.settler.hand_back(handled(3, 1));
    let calls = bench.finish();
    assert_eq!(calls.len(), 3, "{calls:?}");
    // Nothing becomes of it but what was asked for at first, and no lease runs out meanwhile.
    assert_eq!((&calls[1], &calls[2]), (&calls[0], &calls[0]));
    let snoozed = [Duration::from_secs(7), Duration::ZERO].map(|delay| Resolution::Snooze { delay });
    assert_eq!(calls[2][1..].iter().map(|one| one.resolution.clone()).collect::<Vec<_>>(), snoozed);
    let leases: Vec<Lease> = calls[0].iter().map(|one| one.lease).collect();
    assert_eq!(*bench.broker.extended.lock().unwrap(), [leases.clone(), leases].concat());
    assert_eq!(bench.counts(), (0, 1, 0));
}

#[test]
fn what_waits_for_room_leaves_none_for_more_and_is_let_go_when_nothing_new_comes() {
    let mut bench = Bench::new((0..UNSETTLED_MAX).map(|_| disk_full()));
    for number in 0..UNSETTLED_MAX as u64 {
        bench.settler.hand_back(handled(number, 1));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let settler = &mut bench.settler;
    runtime.block_on(async {
        settler.again = Duration::from_secs(3600);
        while settler.can_send() || settler.calls.len() > usize::from(settler.pausing) {
            settler.send();
            settler.answered().await.unwrap();
        }
    });
    assert!(!settler.has_room() && !settler.is_empty());
    settler.drain();
    assert!(settler.has_room() && settler.is_empty());
    bench.settler.settle(handled(1, 1), Outcome::Ack, Vec::new());
    assert!(bench.settler.can_send(), "the pause takes no place of a call");
}

#[test]
fn an_ack_whose_sends_are_refused_is_a_failed_attempt() {
    for refusal in [
        full("audit"),
        BrokerError::StoreFull("the log is full".into()),
        BrokerError::TooLarge { bytes: 2, bytes_max: 1 },
        BrokerError::NoSuchQueue(queue("audit")),
    ] {
        let mut bench = Bench::new([refusal]);
        bench.settler.settle(handled(1, 1), Outcome::Ack, sends());
        let calls = bench.finish();
        assert!(matches!(calls[1][0].resolution, Resolution::Retry { .. }), "{calls:?}");
        assert!(calls[1][0].sends.is_empty());
        assert_eq!(bench.counts(), (0, 1, 0));
    }
}

#[test]
fn the_last_attempt_whose_sends_are_refused_is_a_dead_letter_with_that_reason() {
    let mut bench = Bench::new([full("audit")]);
    bench.settler.settle(handled(1, 5), Outcome::Ack, sends());
    let calls = bench.finish();
    let Resolution::DeadLetter { facts, .. } = &calls[1][0].resolution else { panic!("{calls:?}") };
    let reason = &facts.iter().find(|(name, _)| **name == *crate::dead_letter::REASON).unwrap().1;
    assert_eq!(&**reason, "what it sent was refused: queue audit is full (10 bytes)");
    assert_eq!(bench.counts(), (0, 1, 1));
}

fn state() -> Effects {
    let (space, key) = (Box::from("consumer/welcome"), Box::from("n"));
    let writes = vec![StateWrite { space, key, value: Some("2".into()) }];
    Effects { state: StateUse { writes, ..StateUse::default() }, ..Effects::default() }
}

fn changed() -> BrokerError {
    BrokerError::StateChanged { space: "consumer/welcome".into(), key: "n".into() }
}

#[test]
fn state_goes_with_an_ack_and_with_nothing_else() {
    let mut bench = Bench::new([]);
    bench.settler.settle(handled(1, 1), Outcome::Ack, state());
    bench.settler.settle(handled(2, 1), Outcome::Retry { reason: "no".into(), after: None }, state());
    bench.settler.settle(handled(3, 1), Outcome::Snooze { after: Duration::ZERO }, state());
    let calls = bench.finish();
    assert_eq!(calls[0].iter().map(|one| one.state.len()).collect::<Vec<_>>(), [1, 0, 0]);
}

#[test]
fn a_delivery_whose_state_has_changed_is_handled_again_and_uses_up_no_attempt() {
    let mut bench = Bench::new([changed()]);
    // Also the last attempt.
    bench.settler.settle(handled(1, 5), Outcome::Ack, state());
    let calls = bench.finish();
    assert_eq!(calls[1][0].resolution, Resolution::Snooze { delay: Duration::ZERO });
    assert!(calls[1][0].state.is_empty());
    assert_eq!(bench.counts(), (0, 0, 0));

    let mut bench = Bench::new([changed()]);
    let batch = vec![(handled(1, 1), Outcome::Ack, state()), (handled(2, 1), Outcome::Ack, state())];
    bench.settler.settle_batch(batch, sends());
    let calls = bench.finish();
    assert!(calls[1].iter().all(|one| one.resolution == Resolution::Snooze { delay: Duration::ZERO }), "{calls:?}");
    assert_eq!((calls[1].len(), bench.counts()), (2, (0, 0, 0)));
}

#[test]
fn state_that_is_full_is_a_failed_attempt_whose_reason_names_the_limit() {
    let full = BrokerError::StateFull { space: "consumer/welcome".into(), bytes: 11, bytes_max: 10 };
    let mut bench = Bench::new([full]);
    bench.settler.settle(handled(1, 5), Outcome::Ack, state());
    let calls = bench.finish();
    let Resolution::DeadLetter { facts, .. } = &calls[1][0].resolution else { panic!("{calls:?}") };
    let reason = &facts.iter().find(|(name, _)| **name == *crate::dead_letter::REASON).unwrap().1;
    assert!(reason.starts_with("what it wrote was refused") && reason.contains("limits.state_bytes"), "{reason}");
}

#[test]
fn a_dead_letter_that_finds_no_room_stays_and_uses_up_no_attempt() {
    let mut bench = Bench::new([full("signups.dead")]);
    bench.settler.settle(handled(1, 5), Outcome::DeadLetter { reason: "no".into() }, Vec::new());
    let calls = bench.finish();
    assert_eq!(calls[1][0].resolution, Resolution::Snooze { delay: Duration::from_secs(600) });
    assert_eq!(bench.counts(), (0, 1, 0));
}

#[test]
fn a_lost_lease_is_let_go() {
    let mut bench = Bench::new([BrokerError::LeaseLost]);
    bench.settler.settle(handled(1, 1), Outcome::Ack, sends());
    assert_eq!(bench.finish().len(), 1);
    assert_eq!(bench.counts(), (0, 0, 0));
}

#[test]
fn a_message_whose_last_attempt_never_ended_is_given_up_with_the_attempts_that_began() {
    let mut bench = Bench::new([]);
    let delivery = delivery(1, 6);
    let reason = bench.settler.policy.exhausted(delivery.attempt).unwrap();
    bench.settler.exhausted(&delivery, ModuleHash([1; 32]), reason);
    let calls = bench.finish();
    let Resolution::DeadLetter { facts, .. } = &calls[0][0].resolution else { panic!("{calls:?}") };
    let fact = |name: &str| facts.iter().find(|(one, _)| **one == *name).map(|(_, value)| value.to_string()).unwrap();
    assert_eq!(fact(crate::dead_letter::ATTEMPTS), "5");
    assert_eq!(fact(crate::dead_letter::MODULE_HASH), "01".repeat(32));
    assert_eq!(bench.counts(), (0, 0, 1));
}

#[test]
fn what_never_began_is_given_back() {
    let mut bench = Bench::new([]);
    bench.settler.release(&delivery(1, 1), ModuleHash([1; 32]));
    assert_eq!(bench.finish()[0][0].resolution, Resolution::Release);
}

#[test]
fn a_broker_that_has_stopped_ends_it() {
    let mut bench = Bench::new([BrokerError::Stopped("the disk is gone".into())]);
    bench.settler.settle(handled(1, 1), Outcome::Ack, Vec::new());
    bench.settler.send();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(bench.settler.answered()), Err(Stopped));
}

fn ack(sequence: u64) -> (Handled, Outcome, Vec<Outgoing>) {
    (handled(sequence, 1), Outcome::Ack, sends())
}

#[test]
fn a_batch_without_shared_sends_goes_in_one_call() {
    let mut bench = Bench::new([]);
    let failed = (handled(2, 1), Outcome::Retry { reason: "no".into(), after: None }, sends());
    bench.settler.settle_batch(vec![ack(1), failed, ack(3)], Vec::new());
    let calls = bench.finish();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].iter().map(|one| one.sends.len()).collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(bench.counts(), (2, 1, 0));
}

#[test]
fn what_was_sent_for_the_whole_batch_is_on_record_before_the_other_acks() {
    let mut bench = Bench::new([]);
    bench.settler.settle_batch(vec![ack(1), ack(2), ack(3)], sends());
    let calls = bench.finish();
    let sequences: Vec<Vec<_>> =
        calls.iter().map(|call| call.iter().map(|one| (one.lease.position, one.sends.len())).collect()).collect();
    assert_eq!(sequences, [vec![(1, 2)], vec![(2, 1), (3, 1)]]);
    assert_eq!(bench.counts(), (3, 0, 0));
    assert!(bench.settler.has_room() && bench.settler.unsettled_bytes == 0);
}

#[test]
fn what_was_sent_for_a_batch_is_dropped_if_none_of_it_is_acknowledged() {
    let mut bench = Bench::new([]);
    let failed = (handled(1, 1), Outcome::Snooze { after: Duration::ZERO }, Vec::new());
    bench.settler.settle_batch(vec![failed], sends());
    assert!(bench.finish()[0][0].sends.is_empty());
}

#[test]
fn if_what_was_sent_for_a_batch_is_refused_none_of_it_is_acknowledged() {
    for refusal in [full("audit"), BrokerError::LeaseLost] {
        let lost = refusal == BrokerError::LeaseLost;
        let mut bench = Bench::new([refusal]);
        bench.settler.settle_batch(vec![ack(1), ack(2)], sends());
        let calls = bench.finish();
        let again: Vec<_> = calls[1..].iter().flatten().collect();
        assert!(again.iter().all(|one| matches!(one.resolution, Resolution::Retry { .. }) && one.sends.is_empty()));
        // A message whose lease is lost has gone its own way.
        assert_eq!(again.len(), if lost { 1 } else { 2 });
        assert_eq!(bench.counts().0, 0);
    }
}

#[test]
fn a_message_of_a_batch_that_failed_as_a_whole_comes_back_at_once_with_its_attempt() {
    let mut bench = Bench::new([]);
    bench.settler.hand_back(handled(1, 5));
    assert_eq!(bench.finish()[0][0].resolution, Resolution::Snooze { delay: Duration::ZERO });
    assert_eq!(bench.counts(), (0, 0, 0));
}

#[test]
fn what_fails_on_trial_comes_back_with_its_attempt_and_is_not_given_up() {
    let mut bench = Bench::new([]);
    let second = Duration::from_secs(1);
    bench.settler.put_back(handled(1, 1), Outcome::Retry { reason: "no".into(), after: Some(second) });
    bench.settler.put_back(handled(2, 5), Outcome::Retry { reason: "no".into(), after: Some(second) });
    bench.settler.put_back(handled(3, 1), Outcome::DeadLetter { reason: "no".into() });
    let resolutions: Vec<_> = bench.finish().remove(0).into_iter().map(|one| one.resolution).collect();
    let at_once = Resolution::Snooze { delay: Duration::ZERO };
    assert_eq!(resolutions, [Resolution::Snooze { delay: second }, at_once.clone(), at_once]);
    assert_eq!(bench.counts(), (0, 3, 0));
}

#[test]
fn many_workers_together_leave_leases_for_others() {
    for workers in [1, 2, 16, 4096] {
        let bench = Bench::new([]);
        let mut settler = bench.settler.of_workers(workers);
        let mut held = 0;
        while settler.has_room() {
            settler.acknowledge(handled(held, 1));
            held += 1;
            let gathered = settler.gathered();
            assert!(gathered < GATHERED_MAX || settler.must_send());
        }
        assert!(held as usize * workers <= LEASES_MAX / 2, "{workers} workers hold {held} leases each");
        assert!(settler.must_send(), "what fills it is on its way");
    }
}

#[test]
fn an_ack_that_is_refused_is_judged_as_what_it_was() {
    let mut bench = Bench::new([]);
    let before = Delivery { first_failed_at_ms: Some(17), ..delivery(1, 3) };
    bench.settler.acknowledge(Handled::new(&delivery(9, 1), ModuleHash([1; 32]), String::new()));
    let handled = {
        bench.settler.acknowledge(Handled::new(&before, ModuleHash([2; 32]), "tail".into()));
        let (lease, acked) = (bench.settler.acks.leases[1], bench.settler.acks.acked.pop().unwrap());
        bench.settler.handled(lease, acked)
    };
    let Handled { message, lease, attempt, first_failed_at_ms, module, stderr } = handled;
    assert_eq!((message, lease, attempt, first_failed_at_ms), (before.message.id, before.lease, 3, Some(17)));
    assert_eq!((module, &*stderr), (ModuleHash([2; 32]), "tail"));
}
