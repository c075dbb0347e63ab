//! Durable state: what is written and read of it in a run, and that it is what the model has.

use bytes::Bytes;

use super::{Run, SPACES, Shape, Step};
use crate::disk::SimulatedDisk;
use crate::simulation::model::{Model, State};
use crate::{Refusal, StateRead, StateWrite};

impl Run {
    /// Writes of durable state, and what was read before: mostly what is there, unless others in the group write it first.
    pub(super) fn state_writes(&mut self) -> (Vec<StateWrite>, Vec<StateRead>) {
        if !self.shape.state || self.random.bool() {
            return (Vec::new(), Vec::new());
        }
        let place = |random: &mut fastrand::Rng| {
            let key = ["a", "b", "c", "c\u{e9}"][random.usize(..4)];
            (Box::<str>::from(SPACES[random.usize(..2)]), Box::<str>::from(key))
        };
        let reads = (0..self.random.usize(0..3)).map(|_| {
            let (space, key) = place(&mut self.random);
            let seen = self.model.state.get(&(space.to_string(), key.to_string())).cloned();
            let seen = if self.random.u8(..) < 20 { None } else { seen };
            StateRead { space, key, seen: seen.map(Bytes::from) }
        });
        let reads = reads.collect();
        let writes = (0..self.random.usize(1..4)).map(|_| {
            let (space, key) = place(&mut self.random);
            let len = self.random.usize(..400);
            let byte = self.random.u8(..);
            let value = (self.random.u8(..) < 190).then(|| Bytes::from(vec![byte; len]));
            StateWrite { space, key, value }
        });
        (writes.collect(), reads)
    }

    pub(super) fn drop_state(&mut self) {
        let space = SPACES[self.random.usize(..2)];
        match self.engine().drop_state(space) {
            Ok(()) => {
                self.model.drop_state(space);
                self.happened.count("drops of state");
            }
            Err(_) => self.in_doubt.push(Step::DropState(space)),
        }
    }

    /// Opens a store and reads its durable state.
    pub(in crate::simulation) fn state_of(disk: &SimulatedDisk, shape: Shape) -> Result<State, String> {
        let mut run = Run::new(0, shape);
        run.disk = disk.clone();
        run.open().map_err(|error| error.to_string())?;
        run.try_state().map_err(|refusal| refusal.to_string())
    }

    pub(super) fn try_state(&self) -> Result<State, Refusal> {
        let face = self.face();
        let mut state = State::new();
        for space in SPACES {
            let mut after: Option<Box<str>> = None;
            loop {
                // A page of two keys at a time.
                let keys = face.state_keys(space, after.as_deref(), 2)?;
                for key in &keys {
                    let value = face.state_get(space, key)?.expect("it was listed");
                    assert!(state.insert((space.to_owned(), key.to_string()), value.to_vec()).is_none(), "{key} twice");
                }
                match keys.into_iter().next_back() {
                    Some(last) => after = Some(last),
                    None => break,
                }
            }
        }
        Ok(state)
    }

    /// The limits count what is there.
    pub(super) fn check_state_bytes(&self) {
        for space in SPACES {
            assert_eq!(self.face().state_bytes(space), self.model.state_bytes(space), "bytes of {space}");
        }
    }
}

/// What is wrong with the state, if anything.
pub(super) fn state_differences(model: &Model, actual: &State) -> Option<String> {
    (model.state != *actual).then(|| format!("the state is {actual:?}, expected {:?}", model.state))
}
