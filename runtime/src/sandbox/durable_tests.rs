//! What a delivery sees of its state, and what goes along with its acknowledgement.

use super::*;

struct OnRecord(BTreeMap<String, Bytes>);

impl StateReader for OnRecord {
    fn get(&self, key: &str) -> Result<Option<Bytes>, String> {
        Ok(self.0.get(key).cloned())
    }

    fn keys(&self, after: Option<&str>, limit: usize) -> Result<Vec<Box<str>>, String> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.0.range::<str, _>((from, Bound::Unbounded)).take(limit).map(|(key, _)| key.as_str().into()).collect())
    }

    fn bytes(&self) -> Result<u64, String> {
        Ok(self.0.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }
}

fn state(entries: &[(&str, &str)]) -> DurableState {
    let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), Bytes::from((*value).to_owned())));
    DurableState { space: "consumer/c".into(), reader: Arc::new(OnRecord(entries.collect())) }
}

fn session(messages: usize) -> Session {
    let mut session = Session::default();
    session.begin(messages);
    session
}

fn bytes(text: &str) -> Option<Bytes> {
    Some(Bytes::from(text.to_owned()))
}

fn reads(of: &StateUse) -> Vec<(&str, Option<&[u8]>)> {
    of.reads.iter().map(|read| (&*read.key, read.seen.as_deref())).collect()
}

fn writes(of: &StateUse) -> Vec<(&str, Option<&[u8]>)> {
    of.writes.iter().map(|write| (&*write.key, write.value.as_deref())).collect()
}

#[test]
fn a_delivery_reads_its_own_writes_and_takes_along_what_it_read_before() {
    let (state, mut session) = (state(&[("a", "1"), ("b", "2")]), session(1));
    assert_eq!(session.get(&state, "a").unwrap(), bytes("1"));
    session.set(&state, 100, "a", bytes("3")).unwrap();
    assert_eq!(session.get(&state, "a").unwrap(), bytes("3"));
    // Nobody has looked at it: the last one wins.
    session.set(&state, 100, "b", None).unwrap();
    assert_eq!(session.get(&state, "b").unwrap(), None);
    assert_eq!(session.increment(&state, 100, "c", 5).unwrap(), 5);
    assert_eq!(session.increment(&state, 100, "c", 2).unwrap(), 7);
    let uses = session.take(&state);
    let [(0, one)] = &uses[..] else { panic!("{uses:?}") };
    assert_eq!(reads(one), [("a", Some(&b"1"[..])), ("c", None)]);
    assert_eq!(writes(one), [("a", Some(&b"3"[..])), ("b", None), ("c", Some(&b"7"[..]))]);
    assert!(one.writes.iter().all(|write| &*write.space == "consumer/c"));
}

#[test]
fn who_writes_nothing_takes_nothing_along() {
    let (state, mut session) = (state(&[("a", "1")]), session(1));
    session.get(&state, "a").unwrap();
    assert_eq!(session.take(&state), []);
}

#[test]
fn each_message_of_a_batch_has_read_what_the_one_before_it_wrote() {
    let (state, mut session) = (state(&[("n", "1"), ("rate", "9")]), session(3));
    session.get(&state, "rate").unwrap();
    for place in 0..3 {
        session.set_current(Some(place));
        session.increment(&state, 100, "n", 1).unwrap();
        session.set_current(None);
    }
    let refused = session.set(&state, 100, "n", None).unwrap_err();
    assert!(matches!(&refused, Refused::Invalid(why) if why.contains("for one of its messages")), "{refused:?}");
    let uses = session.take(&state);
    for ((place, one), (before, after)) in uses.iter().zip([("1", "2"), ("2", "3"), ("3", "4")]) {
        assert_eq!(reads(one), [("n", Some(before.as_bytes())), ("rate", Some(&b"9"[..]))], "{place}");
        assert_eq!(writes(one), [("n", Some(after.as_bytes()))]);
    }
    assert_eq!(uses.len(), 3);
}

#[test]
fn keys_are_those_on_record_and_those_that_were_written_page_by_page() {
    let names: Vec<String> = (0..2 * STATE_KEYS_PAGE + 5).map(|key| format!("{key:06}")).collect();
    let entries: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let (state, mut session) = (state(&entries), session(1));
    session.set(&state, u64::MAX, "000003", None).unwrap();
    session.set(&state, u64::MAX, "000004x", bytes("new")).unwrap();
    session.set(&state, u64::MAX, "zzz", bytes("new")).unwrap();
    session.set(&state, u64::MAX, "zzzz", bytes("new")).unwrap();
    session.set(&state, u64::MAX, "zzzz", None).unwrap();
    let mut expected: Vec<Box<str>> = names.iter().map(|name| name.as_str().into()).collect();
    expected.retain(|name| &**name != "000003");
    expected.extend(["000004x".into(), "zzz".into()]);
    expected.sort();
    let (mut all, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let (keys, next) = session.keys(&state, cursor).unwrap();
        all.extend(keys);
        pages += 1;
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((all, pages), (expected, 3));
    assert!(session.keys(&state, Some(77)).is_err());
    assert!(session.keys(&state, Some(0)).is_err());
}

#[test]
fn a_page_whose_keys_were_all_removed_is_passed_over() {
    let names: Vec<String> = (0..STATE_KEYS_PAGE + 1).map(|key| format!("{key:06}")).collect();
    let entries: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let (state, mut session) = (state(&entries), session(1));
    for name in &names[..STATE_KEYS_PAGE] {
        session.set(&state, u64::MAX, name, None).unwrap();
    }
    let (keys, next) = session.keys(&state, None).unwrap();
    assert_eq!((keys, next), (vec![names[STATE_KEYS_PAGE].as_str().into()], None));
}

#[test]
fn limits_hold_and_say_which() {
    let (state, mut session) = (state(&[("a", "12345")]), session(1));
    // 6 bytes are on record: these make it 10.
    session.set(&state, 10, "b", bytes("123")).unwrap();
    let full = session.set(&state, 10, "c", bytes("")).unwrap_err();
    assert_eq!(full.to_string(), "the state may take 10 B in all (limits.state_bytes)");
    assert!(session.limit_hit());
    session.set(&state, 10, "a", bytes("1234")).unwrap();
    session.set(&state, 10, "c", bytes("")).unwrap();

    for key in [String::new(), "k".repeat(513)] {
        let refused = session.get(&state, &key).unwrap_err().to_string();
        assert!(refused.contains("a key of the state has 1 to 512 bytes"), "{refused}");
    }
    session.get(&state, &"k".repeat(512)).unwrap();
    let large = Bytes::from(vec![0; STATE_VALUE_BYTES_MAX + 1]);
    let refused = session.set(&state, u64::MAX, "l", Some(large.clone())).unwrap_err().to_string();
    assert!(refused.contains("a value may have 1 MiB"), "{refused}");
    let largest = large.slice(1..);
    let held = (0..20).map(|at| session.set(&state, u64::MAX, &format!("l{at}"), Some(largest.clone())));
    let refused = held.filter_map(Result::err).next().expect("the host does not keep so much").to_string();
    assert!(refused.contains("16 MiB of state"), "{refused}");
}

#[test]
fn a_key_that_is_asked_for_again_counts_in_the_answer_again() {
    let value = "v".repeat(1 << 20);
    let (state, mut session) = (state(&[("a", &value)]), session(1));
    let mut ask = |key: &str, count| session.get_many(&state, vec![key.to_owned(); count]);
    assert_eq!(ask("a", 15).unwrap().len(), 15);
    assert_eq!(ask("a", 15).unwrap().len(), 15, "what was answered is the guest's");
    assert_eq!(ask("none", 100_000).unwrap().len(), 100_000);
    for (key, count) in [("a", 16), ("a", 670_000), ("none", 200_000)] {
        assert_eq!(ask(key, count).unwrap_err().to_string(), "16 MiB of state may be read at once");
    }
    assert!(session.limit_hit());
}

#[test]
fn each_message_of_a_batch_pays_for_the_keys_that_it_has_read() {
    let mut refused_at = Vec::new();
    for in_common in [false, true] {
        let (state, mut session) = (state(&[]), session(1000));
        let keys: Vec<_> = (0..1000).map(|key| format!("{key:0500}")).collect();
        if in_common {
            keys.iter().for_each(|key| drop(session.get(&state, key).unwrap()));
        }
        let refused = (0..1000).find(|place| {
            session.set_current(Some(*place));
            let own = if in_common { &[][..] } else { &keys };
            let read = own.iter().try_for_each(|key| session.get(&state, key).map(drop));
            let done = read.and_then(|()| session.set(&state, u64::MAX, "written", bytes("x")));
            done.is_err_and(|refused| matches!(&refused, Refused::Limit(why) if why.contains("16 MiB of state in all")))
        });
        assert!(session.limit_hit());
        refused_at.push(refused.expect("it is too much for 1000 messages"));
    }
    // A copy of the keys takes 628,000 bytes, and they were come across before: 16 MiB are 26 times that.
    assert_eq!(refused_at, [25, 24]);
    // Alone, as many are no more than they were.
    let (state, mut session) = (state(&[]), session(1));
    (0..25_000).for_each(|key| drop(session.get(&state, &format!("{key:0500}")).unwrap()));
}

#[test]
fn what_is_no_number_is_not_incremented() {
    let most = u64::MAX.to_string();
    let (state, mut session) = (state(&[("text", "x"), ("most", &most)]), session(1));
    assert!(matches!(session.increment(&state, 100, "text", 1), Err(Refused::Invalid(_))));
    assert!(matches!(session.increment(&state, 100, "most", 1), Err(Refused::Invalid(_))));
    assert_eq!(session.take(&state), []);
}
