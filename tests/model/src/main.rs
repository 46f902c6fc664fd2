// SPDX-License-Identifier: GPL-2.0

//! A model of the mirror protocol of clone-rs, explored to exhaustion. See README.md.

mod bio;
mod control;
mod end;
mod endless;
mod flush;
mod job;
mod liveness;
mod merge;
mod mistakes;
mod model;
mod planted;
mod properties;
mod read;
mod route;
mod run;
mod scenario;
mod scenarios;
mod state;
mod trace;
mod verify;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let tally = match arguments[..] {
        ["short"] => run::short(),
        ["long"] => run::long(),
        ["only", name] => run::only(name),
        _ => {
            eprintln!("usage: clone-rs-model short | long | only <part of a name>");
            return ExitCode::from(2);
        }
    };
    println!("{} passed, {} failed", tally.passed, tally.failed);
    ExitCode::from(u8::from(tally.failed > 0))
}
