// SPDX-License-Identifier: GPL-2.0

//! Explores scenarios, with and without a mistake, and prints a line for each.

use crate::liveness::Graph;
use crate::mistakes::Mistake;
use crate::model::{Action, Mirror};
use crate::planted::{Planted, PLANTED};
use crate::scenario::{Scenario, Tier};
use crate::scenarios;
use crate::state::State;
use crate::trace;
use stateright::{Checker, HasDiscoveries, Model};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The short set takes no longer, or else it fails.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Default)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    /// Also print how mistakes were found.
    traces: bool,
    /// When the time is over: what is left then is not explored.
    until: Option<Instant>,
    /// Of all explorations.
    states: usize,
}

/// How a state was reached.
type Path = Vec<(State, Option<Action>)>;

/// What an exploration has found: how many states, and the property that does not hold.
struct Found {
    states: usize,
    violation: Option<(&'static str, Path)>,
}

pub fn short() -> Tally {
    let begin = Instant::now();
    let mut tally = Tally {
        until: Some(begin + LIMIT),
        ..Tally::default()
    };
    tally.scenarios(|scenario| scenario.tier == Tier::Short);
    tally.mistakes(|planted| planted.tier() == Tier::Short);
    let name = format!("the short set, at most {} s", LIMIT.as_secs());
    let all = Found {
        states: tally.states,
        violation: None,
    };
    let (passed, verdict) = match tally.is_over() {
        false => (true, "all of it explored"),
        true => (false, "not all of it in that time"),
    };
    tally.line(passed, &name, &all, verdict, begin);
    tally
}

pub fn long() -> Tally {
    let mut tally = Tally::default();
    tally.scenarios(|_| true);
    tally.mistakes(|_| true);
    tally
}

pub fn only(name: &str) -> Tally {
    let mut tally = Tally {
        traces: true,
        ..Tally::default()
    };
    tally.scenarios(|scenario| scenario.name.contains(name));
    tally.mistakes(|planted| format!("{:?}", planted.mistake).contains(name));
    tally
}

/// Explores a scenario: all of it, or until `expected` is found.
fn explore(
    scenario: &'static Scenario,
    mistake: Option<Mistake>,
    expected: Option<&'static str>,
) -> Found {
    let model = Mirror { scenario, mistake };
    if scenario.cyclic {
        let graph = Graph::explore(&model);
        return Found {
            states: graph.states(),
            violation: graph
                .violation()
                .map(|(name, node)| (name, graph.path(node))),
        };
    }
    let until = match expected {
        Some(name) => HasDiscoveries::AnyOf(BTreeSet::from([name])),
        None => HasDiscoveries::AnyFailures,
    };
    let checker = model.checker().finish_when(until).spawn_bfs().join();
    let mut found = checker.discoveries().into_iter();
    let violation = match expected {
        Some(name) => found.find(|(found, _)| *found == name),
        None => found.next(),
    };
    Found {
        states: checker.unique_state_count(),
        violation: violation.map(|(name, path)| (name, path.into_vec())),
    }
}

impl Tally {
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() > until)
    }

    fn line(&mut self, passed: bool, name: &str, found: &Found, verdict: &str, begin: Instant) {
        let word = if passed { "ok" } else { "FAILED" };
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "{word}: {name}: {} states, {verdict}, {seconds:.1} s",
            found.states
        );
        self.states += found.states;
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }

    fn scenarios(&mut self, wanted: impl Fn(&Scenario) -> bool) {
        for scenario in scenarios::all().filter(|scenario| wanted(scenario)) {
            if self.is_over() {
                return;
            }
            let begin = Instant::now();
            let found = explore(scenario, None, None);
            let violated = found.violation.as_ref();
            let verdict = match violated {
                None => "all properties hold".to_string(),
                Some((name, _)) => format!("violates '{name}'"),
            };
            self.line(violated.is_none(), scenario.name, &found, &verdict, begin);
            if let Some((_, path)) = found.violation {
                trace::print(path);
            }
        }
    }

    fn mistakes(&mut self, wanted: impl Fn(&Planted) -> bool) {
        for planted in PLANTED.iter().filter(|planted| wanted(planted)) {
            if self.is_over() {
                return;
            }
            let begin = Instant::now();
            let name = format!("{:?} in '{}'", planted.mistake, planted.scenario);
            let Some(scenario) = planted.scenario() else {
                println!("FAILED: {name}: there is no such scenario");
                self.failed += 1;
                continue;
            };
            let found = explore(scenario, Some(planted.mistake), Some(planted.property));
            let (passed, verdict) = match &found.violation {
                Some((violated, _)) => (
                    *violated == planted.property,
                    format!("violates '{violated}'"),
                ),
                None => (false, format!("does not violate '{}'", planted.property)),
            };
            self.line(passed, &name, &found, &verdict, begin);
            if let Some((_, path)) = found.violation.filter(|_| self.traces) {
                trace::print(path);
            }
        }
    }
}
