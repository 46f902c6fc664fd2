// SPDX-License-Identifier: GPL-2.0

//! Prints how a state was reached, a step and the state after it in a line each.

use crate::model::Action;
use crate::state::*;

pub fn print(path: Vec<(State, Option<Action>)>) {
    for (state, action) in path {
        println!("    {}", line(&state));
        if let Some(action) = action {
            println!("  {action:?}");
        }
    }
}

/// Words as bits and tries; the data of both devices; whatever is not at rest.
fn line(state: &State) -> String {
    let word = |word: &Word| {
        let bits = [
            (Word::D, 'D'),
            (Word::C, 'C'),
            (Word::S, 'S'),
            (Word::H, 'H'),
        ];
        let set = bits.into_iter().filter(|(bit, _)| word.has(*bit));
        format!(
            "{}{}",
            set.map(|(_, name)| name).collect::<String>(),
            word.tries()
        )
    };
    let devices = &state.devices;
    let mut text = format!(
        "[{} {}] {:?} {} backing {:?} clone {:?} cached {:04b} promised {:04b}",
        word(&state.words[0]),
        word(&state.words[1]),
        state.phase,
        if state.mirror { "mirror" } else { "track" },
        devices.backing,
        devices.clone,
        devices.volatile,
        devices.promised
    );
    for (name, on) in [
        ("detached", state.detached),
        ("paused", state.control.paused),
    ] {
        if on {
            text = format!("{text} {name}");
        }
    }
    if state.completer != Completer::Idle {
        text = format!("{text} completer {:?}", state.completer);
    }
    if state.flusher.stage != FlusherStage::Idle || state.loss != Loss::None {
        text = format!("{text} flush {:?} {:?}", state.flusher.stage, state.loss);
    }
    for job in state.jobs.iter().filter(|job| job.stage != JobStage::Idle) {
        let hold = if job.hold { " holds" } else { "" };
        text = format!("{text} | job of {:02b} {:?}{hold}", job.run, job.stage);
    }
    for bio in &state.bios {
        text = format!(
            "{text} | bio {}.{} {:?} {:?} {:04b} todo {:04b} {:04b}{}",
            bio.writer,
            bio.version,
            bio.kind,
            bio.stage,
            bio.range,
            bio.backing.todo,
            bio.clone.todo,
            if bio.lost { " lost" } else { "" }
        );
    }
    text
}
