//! Is there an order of one key's operations that explains every answer and respects real time?
//!
//! Wing and Gong's search with Lowe's memory of visited states ("Testing for linearizability", 2017),
//! for a register whose every write has a revision. Exponential in the worst case, hence the time limit.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A value with the revision that wrote it; `None` before the first write.
pub type Register = Option<(String, i64)>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Read(Register),
    /// `revision` is known once the write was answered or seen in the history.
    Write {
        value: String,
        revision: Option<i64>,
    },
    /// A write under the condition that the register has this mod revision (0: was never written), which it had.
    Swapped {
        expected: i64,
        value: String,
        revision: Option<i64>,
    },
    /// The same, refused: the register had another.
    NotSwapped {
        expected: i64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// When it was asked; any clock that only moves forward, the same for all.
    pub invoked: u64,
    /// When it was answered; `None` if it never was, and it may have happened at any time since, or not at all.
    pub returned: Option<u64>,
    pub action: Action,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order explains more than the first so many answers.
    Violated {
        explained: usize,
    },
    TimedOut,
}

/// Looks for an order of the operations of one key.
pub fn check(operations: &[Operation], limit: Duration) -> Verdict {
    let mut sorted = operations.to_vec();
    sorted.sort_by_key(|operation| operation.invoked);
    Search {
        operations: sorted,
        deadline: Instant::now() + limit,
        seen: HashSet::new(),
        explained: 0,
    }
    .run()
}

struct Search {
    operations: Vec<Operation>,
    deadline: Instant,
    seen: HashSet<(Vec<u64>, Register)>,
    explained: usize,
}

/// One step of the order that is being tried.
struct Node {
    done: Vec<u64>,
    register: Register,
    candidates: Vec<usize>,
}

impl Search {
    fn run(mut self) -> Verdict {
        let done = vec![0; self.operations.len().div_ceil(64)];
        let mut path = vec![self.node(done, None)];
        while let Some(node) = path.last_mut() {
            if self
                .operations
                .iter()
                .enumerate()
                .all(|(index, operation)| {
                    operation.returned.is_none() || contains(&node.done, index)
                })
            {
                return Verdict::Linearizable;
            }
            if Instant::now() >= self.deadline {
                return Verdict::TimedOut;
            }
            let Some(candidate) = node.candidates.pop() else {
                path.pop();
                continue;
            };
            let Some(register) = step(&node.register, &self.operations[candidate].action) else {
                continue;
            };
            let mut done = node.done.clone();
            done[candidate / 64] |= 1 << (candidate % 64);
            if self.seen.insert((done.clone(), register.clone())) {
                self.explained = self
                    .explained
                    .max(done.iter().map(|word| word.count_ones() as usize).sum());
                let next = self.node(done, register);
                path.push(next);
            }
        }
        Verdict::Violated {
            explained: self.explained,
        }
    }

    /// What may come next: whatever was asked before the first answer among the rest.
    fn node(&self, done: Vec<u64>, register: Register) -> Node {
        let open = || {
            self.operations
                .iter()
                .enumerate()
                .filter(|(index, _)| !contains(&done, *index))
        };
        let first_answer = open()
            .filter_map(|(_, operation)| operation.returned)
            .min()
            .unwrap_or(u64::MAX);
        let mut candidates: Vec<usize> = open()
            .filter(|(_, operation)| operation.invoked <= first_answer)
            .map(|(index, _)| index)
            .collect();
        // Tried from the back: answered ones first, since most unanswered ones were never done.
        candidates.sort_by_key(|index| {
            (
                self.operations[*index].returned.is_some(),
                std::cmp::Reverse(*index),
            )
        });
        Node {
            done,
            register,
            candidates,
        }
    }
}

fn contains(done: &[u64], index: usize) -> bool {
    done[index / 64] >> (index % 64) & 1 == 1
}

/// The register after an action, or `None` if the action could not have been answered so.
fn step(register: &Register, action: &Action) -> Option<Register> {
    let current = register.as_ref().map_or(0, |(_, revision)| *revision);
    match action {
        Action::Read(seen) => (seen == register).then(|| register.clone()),
        Action::Write { value, revision } => write(current, value, *revision),
        Action::Swapped {
            expected,
            value,
            revision,
        } => (*expected == current).then(|| write(current, value, *revision))?,
        Action::NotSwapped { expected } => (*expected != current).then(|| register.clone()),
    }
}

fn write(current: i64, value: &str, revision: Option<i64>) -> Option<Register> {
    let revision = revision.unwrap_or(current + 1);
    (revision > current).then(|| Some((value.to_owned(), revision)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn operation(invoked: u64, returned: u64, action: Action) -> Operation {
        Operation {
            invoked,
            returned: Some(returned),
            action,
        }
    }

    fn write(value: &str, revision: i64) -> Action {
        Action::Write {
            value: value.into(),
            revision: Some(revision),
        }
    }

    fn read(value: &str, revision: i64) -> Action {
        Action::Read(Some((value.into(), revision)))
    }

    fn verdict(operations: &[Operation]) -> Verdict {
        check(operations, LIMIT)
    }

    #[test]
    fn concurrent_operations_may_happen_in_any_order() {
        let writes = [
            operation(0, 10, write("a", 2)),
            operation(0, 10, write("b", 3)),
        ];
        for seen in [read("a", 2), read("b", 3), Action::Read(None)] {
            let history = [writes[0].clone(), writes[1].clone(), operation(1, 9, seen)];
            assert_eq!(verdict(&history), Verdict::Linearizable);
        }
    }

    #[test]
    fn a_read_after_a_write_was_answered_must_see_it() {
        let history = [
            operation(0, 1, write("a", 2)),
            operation(2, 3, Action::Read(None)),
        ];
        assert_eq!(verdict(&history), Verdict::Violated { explained: 1 });
    }

    #[test]
    fn two_reads_must_not_go_back_in_time() {
        let writing = operation(0, 20, write("a", 2));
        let history = [
            writing,
            operation(1, 2, read("a", 2)),
            operation(3, 4, Action::Read(None)),
        ];
        assert!(matches!(verdict(&history), Verdict::Violated { .. }));
    }

    #[test]
    fn a_lost_write_is_seen() {
        let history = [
            operation(0, 1, write("a", 2)),
            operation(2, 3, write("b", 3)),
            operation(4, 5, read("a", 2)),
        ];
        assert!(matches!(verdict(&history), Verdict::Violated { .. }));
    }

    #[test]
    fn a_value_that_nobody_wrote_is_seen() {
        let history = [
            operation(0, 1, write("a", 2)),
            operation(2, 3, read("ghost", 3)),
        ];
        assert!(matches!(verdict(&history), Verdict::Violated { .. }));
    }

    #[test]
    fn two_swaps_from_the_same_revision_cannot_both_win() {
        let swap = |value: &str, revision| Action::Swapped {
            expected: 2,
            value: value.into(),
            revision: Some(revision),
        };
        let won_twice = [
            operation(0, 1, write("a", 2)),
            operation(2, 9, swap("b", 3)),
            operation(2, 9, swap("c", 4)),
        ];
        assert!(matches!(verdict(&won_twice), Verdict::Violated { .. }));
        let won_once = [
            operation(0, 1, write("a", 2)),
            operation(2, 9, swap("b", 3)),
            operation(2, 9, Action::NotSwapped { expected: 2 }),
        ];
        assert_eq!(verdict(&won_once), Verdict::Linearizable);
        let refused_wrongly = [
            operation(0, 1, write("a", 2)),
            operation(2, 9, Action::NotSwapped { expected: 2 }),
        ];
        assert!(matches!(
            verdict(&refused_wrongly),
            Verdict::Violated { .. }
        ));
    }

    #[test]
    fn revisions_of_a_key_must_grow_with_its_order() {
        let history = [
            operation(0, 1, write("a", 5)),
            operation(2, 3, write("b", 4)),
        ];
        assert!(matches!(verdict(&history), Verdict::Violated { .. }));
    }

    #[test]
    fn an_unanswered_write_may_have_happened_late_or_never() {
        let unanswered = Operation {
            invoked: 0,
            returned: None,
            action: Action::Write {
                value: "x".into(),
                revision: None,
            },
        };
        for later in [Action::Read(None), read("x", 1)] {
            assert_eq!(
                verdict(&[unanswered.clone(), operation(50, 51, later)]),
                Verdict::Linearizable
            );
        }
        let forth_and_back = [
            unanswered,
            operation(50, 51, read("x", 1)),
            operation(52, 53, Action::Read(None)),
        ];
        assert!(matches!(verdict(&forth_and_back), Verdict::Violated { .. }));
    }

    /// A long correct history, then the same with one answer changed: the first passes, the others do not.
    #[test]
    fn one_wrong_answer_in_a_long_history_is_found() {
        let mut history = Vec::new();
        for number in 0..300u64 {
            let revision = i64::try_from(number).unwrap() + 2;
            let from = number * 10;
            history.push(operation(
                from,
                from + 12,
                write(&number.to_string(), revision),
            ));
            history.push(operation(
                from + 13,
                from + 14,
                read(&number.to_string(), revision),
            ));
        }
        // Each write overlaps the next one's start, so that there is something to search.
        history.retain(|operation| operation.returned.is_some());
        let good: Vec<_> = history
            .iter()
            .filter(|operation| !matches!(operation.action, Action::Read(_)))
            .cloned()
            .collect();
        assert_eq!(verdict(&good), Verdict::Linearizable);
        let wrong = operation(2_995 + 20, 2_995 + 21, read("298", 300));
        let mut bad = good;
        bad.push(wrong);
        assert!(matches!(verdict(&bad), Verdict::Violated { .. }));
    }
}
