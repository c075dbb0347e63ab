//! All subscriptions in a tree of tokens: a look-up costs by the length of the subject and by how many patterns with
//! wildcards could match it, not by how many patterns there are.

use std::collections::{BTreeSet, HashMap};

use super::{ONE, Pattern, REST, Subject};
use crate::delivery::QueueName;

/// Which queues get what is sent to a subject.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions {
    root: Node,
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    tokens: HashMap<Box<str>, Node>,
    /// What `*` leads to.
    one: Option<Box<Node>>,
    /// Queues whose pattern ends here.
    here: Vec<QueueName>,
    /// Queues whose pattern ends with `>` here.
    rest: Vec<QueueName>,
}

impl Subscriptions {
    /// Of these queues to these patterns.
    pub fn new<'s>(subscriptions: impl IntoIterator<Item = (&'s Pattern, &'s QueueName)>) -> Subscriptions {
        let (mut root, mut patterns) = (Node::default(), BTreeSet::new());
        for (pattern, queue) in subscriptions {
            root.add(pattern, queue);
            patterns.insert(pattern.clone());
        }
        Subscriptions { root, patterns: patterns.into_iter().collect() }
    }

    /// The queues that subscribe to the subject, by name, each once.
    pub fn queues(&self, subject: &Subject) -> Vec<QueueName> {
        let tokens: Vec<_> = subject.as_str().split('.').collect();
        let mut found = Vec::new();
        self.root.find(&tokens, &mut found);
        found.sort_unstable();
        found.dedup();
        found.into_iter().cloned().collect()
    }

    /// All patterns, in order, each once.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }
}

impl Node {
    fn add(&mut self, pattern: &Pattern, queue: &QueueName) {
        let mut node = self;
        for token in pattern.as_str().split('.') {
            node = match token {
                REST => return node.rest.push(queue.clone()),
                ONE => node.one.get_or_insert_default(),
                token => node.tokens.entry(token.into()).or_default(),
            };
        }
        node.here.push(queue.clone());
    }

    /// As deep as the subject has tokens, which its length bounds.
    fn find<'n>(&'n self, tokens: &[&str], found: &mut Vec<&'n QueueName>) {
        let Some((token, more)) = tokens.split_first() else { return found.extend(&self.here) };
        found.extend(&self.rest);
        if let Some(node) = self.tokens.get(*token) {
            node.find(more, found);
        }
        if let Some(node) = &self.one {
            node.find(more, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The tree says what asking each pattern in turn says.
        #[test]
        fn the_tree_finds_what_each_pattern_says(
            patterns in prop::collection::vec(("[ab*](\\.[ab*]){0,3}(\\.>)?", 0..6_usize), 0..40),
            subjects in prop::collection::vec("[abc](\\.[abc]){0,4}", 1..10),
        ) {
            let subscriptions: Vec<_> = patterns
                .iter()
                .map(|(text, queue)| (Pattern::new(text).unwrap(), QueueName::new(&format!("q{queue}")).unwrap()))
                .collect();
            let tree = Subscriptions::new(subscriptions.iter().map(|(pattern, queue)| (pattern, queue)));
            for subject in subjects {
                let naive: BTreeSet<_> = subscriptions
                    .iter()
                    .filter(|(pattern, _)| pattern.matches(&subject))
                    .map(|(_, queue)| queue.clone())
                    .collect();
                let found = tree.queues(&Subject::new(&subject).unwrap());
                prop_assert_eq!(found, naive.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
