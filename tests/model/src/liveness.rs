// SPDX-License-Identifier: GPL-2.0

//! What must happen at last, also where writers write again and again: looked for in the graph of
//! all states, as stateright's own `eventually` is blind to cycles.
//!
//! A run is fair if each process that is enabled all the time from some moment on takes a step at
//! last (weak fairness). A goal is missed by a fair run that stays among states without it: one
//! that ends where no process has anything to do, or one that goes round in a strongly connected
//! component where each process takes a step or is not enabled somewhere. A run may visit all
//! states and steps of a component again and again, so that test is exact.

use crate::model::{Action, Mirror, PROCESSES};
use crate::state::*;
use ahash::RandomState;
use stateright::Model;
use std::collections::{HashMap, VecDeque};

pub const ENDS: &str = "copying ends";
pub const VERIFIED: &str = "a verify ends";
pub const HELD: &str = "no bio is held for ever";

/// A set of processes, one bit each.
type Processes = u16;

struct Node {
    /// Where its edges begin.
    edges: usize,
    enabled: Processes,
    /// Goal 0 is that of the copy, or of the verify, the others those of the writers.
    goals: u8,
    /// The node and the step by which it was found.
    from: (u32, Option<Action>),
}

/// All states of a scenario, and the steps between them.
pub struct Graph<'a> {
    model: &'a Mirror,
    nodes: Vec<Node>,
    edges: Vec<(u32, Processes)>,
}

fn goals(state: &State, verifies: bool) -> u8 {
    let done = |its: &Writer| its.bios == 0 && its.rest == 0;
    let writers = state.writers.iter().enumerate();
    let writers = writers.fold(0, |all, (writer, its)| all | u8::from(done(its)) << writer);
    let ended = if verifies {
        state.verify.stage == VerifyStage::Done
    } else {
        state.phase == Phase::Complete
    };
    writers << 1 | u8::from(ended)
}

impl<'a> Graph<'a> {
    pub fn explore(model: &'a Mirror) -> Self {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        let mut known = HashMap::with_hasher(RandomState::with_seeds(5, 6, 7, 8));
        let mut graph = Self {
            model,
            nodes: Vec::new(),
            edges: Vec::new(),
        };
        let mut queue = VecDeque::new();
        for state in model.init_states() {
            known.insert(hasher.hash_one(&state), graph.add(&state, (0, None)));
            queue.push_back(state);
        }
        let mut actions = Vec::new();
        for at in 0u32.. {
            let Some(state) = queue.pop_front() else {
                break;
            };
            let mut enabled = 0;
            graph.nodes[at as usize].edges = graph.edges.len();
            model.actions(&state, &mut actions);
            for action in actions.drain(..) {
                let Some(next) = model.next_state(&state, action) else {
                    continue;
                };
                let process = model
                    .process(&state, action)
                    .map_or(0, |process| 1 << process);
                enabled |= process;
                let to = *known.entry(hasher.hash_one(&next)).or_insert_with(|| {
                    let to = graph.add(&next, (at, Some(action)));
                    queue.push_back(next);
                    to
                });
                graph.edges.push((to, process));
            }
            graph.nodes[at as usize].enabled = enabled;
        }
        graph
    }

    fn add(&mut self, state: &State, from: (u32, Option<Action>)) -> u32 {
        self.nodes.push(Node {
            edges: 0,
            enabled: 0,
            goals: goals(state, self.model.scenario.verifies()),
            from,
        });
        (self.nodes.len() - 1) as u32
    }

    pub fn states(&self) -> usize {
        self.nodes.len()
    }

    /// A property that is violated, and a state from where a fair run misses its goal.
    pub fn violation(&self) -> Option<(&'static str, u32)> {
        let writers = self.model.scenario.writers.len() as u8;
        let first = u8::from(self.model.scenario.endless);
        (first..=writers).find_map(|goal| {
            let name = match goal {
                0 if self.model.scenario.verifies() => VERIFIED,
                0 => ENDS,
                _ => HELD,
            };
            self.missed(1 << goal).map(|node| (name, node))
        })
    }

    fn edges_of(&self, node: u32) -> &[(u32, Processes)] {
        let end = self
            .nodes
            .get(node as usize + 1)
            .map_or(self.edges.len(), |next| next.edges);
        &self.edges[self.nodes[node as usize].edges..end]
    }

    /// Tarjan's algorithm, with a stack of its own, on the states without the goal.
    fn missed(&self, goal: u8) -> Option<u32> {
        const UNSEEN: u32 = u32::MAX;
        let inside = |node: u32| self.nodes[node as usize].goals & goal == 0;
        let mut index = vec![UNSEEN; self.nodes.len()];
        let mut low = vec![0; self.nodes.len()];
        let mut on_stack = vec![false; self.nodes.len()];
        let (mut stack, mut next) = (Vec::new(), 0);
        for root in (0..self.nodes.len() as u32).filter(|node| inside(*node)) {
            if index[root as usize] != UNSEEN {
                continue;
            }
            let mut calls = vec![(root, 0)];
            while let Some((node, edge)) = calls.pop() {
                let at = node as usize;
                if edge == 0 {
                    if self.nodes[at].enabled == 0 {
                        return Some(node);
                    }
                    index[at] = next;
                    low[at] = next;
                    next += 1;
                    stack.push(node);
                    on_stack[at] = true;
                }
                if let Some((to, _)) = self.edges_of(node).get(edge) {
                    calls.push((node, edge + 1));
                    if inside(*to) && index[*to as usize] == UNSEEN {
                        calls.push((*to, 0));
                    } else if inside(*to) && on_stack[*to as usize] {
                        low[at] = low[at].min(index[*to as usize]);
                    }
                    continue;
                }
                if let Some((caller, _)) = calls.last() {
                    low[*caller as usize] = low[*caller as usize].min(low[at]);
                }
                if low[at] == index[at] {
                    let begin = stack.iter().rposition(|other| *other == node)?;
                    let component = stack.split_off(begin);
                    if self.is_fair(&component, &on_stack, &index) {
                        return Some(node);
                    }
                    for member in component {
                        on_stack[member as usize] = false;
                    }
                }
            }
        }
        None
    }

    /// Whether a fair run can stay in a component, which is what lies on the stack from its first
    /// member on.
    fn is_fair(&self, component: &[u32], on_stack: &[bool], index: &[u32]) -> bool {
        let first = index[component[0] as usize];
        let all = (1 << PROCESSES) - 1;
        let (mut served, mut cyclic) = (0, false);
        for member in component {
            served |= !self.nodes[*member as usize].enabled;
            for (to, process) in self.edges_of(*member) {
                if on_stack[*to as usize] && index[*to as usize] >= first {
                    served |= process;
                    cyclic = true;
                }
            }
        }
        cyclic && served & all == all
    }

    /// How a node is reached.
    pub fn path(&self, node: u32) -> Vec<(State, Option<Action>)> {
        let mut actions = Vec::new();
        let mut at = node;
        while let (from, Some(action)) = self.nodes[at as usize].from {
            actions.push(action);
            at = from;
        }
        let mut path = Vec::new();
        let mut state = self.model.init_states().into_iter().next();
        while let Some(now) = state {
            let action = actions.pop();
            state = action.and_then(|action| self.model.next_state(&now, action));
            path.push((now, action));
        }
        path
    }
}
