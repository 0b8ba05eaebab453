//! What to know before believing a comparison.
//!
//! In: the sides, and the noise of each pair. Out: sentences.

use std::collections::BTreeSet;

use super::decide::Sides;
use super::noise::{FLOOR_WITHOUT_AA, Noise};
use super::side::Run;
use crate::metrics;
use crate::record::{Machine, Skip};

/// The sentences, those that concern the most first.
pub(super) fn notes(sides: &Sides<'_>, noise: &[Noise]) -> Vec<String> {
    let mut notes = Vec::new();
    let both = || sides.a.1.iter().chain(sides.b.1);
    if sides
        .a
        .1
        .iter()
        .any(|a| sides.b.1.iter().any(|b| a.data.header == b.data.header && a.data.settings == b.data.settings))
    {
        notes.push("A run of A is a run of B too: compared with itself, nothing differs.".to_string());
    }
    if noise.iter().any(|noise| !noise.is_known()) {
        notes.push(format!(
            "How far runs of the same thing lie apart is unknown here, and their passes do not show it: differences under \
             {:.0}% are not told. Measure A once more and give that run with --noise, or give folders that hold several runs.",
            100.0 * FLOOR_WITHOUT_AA
        ));
    }
    if both().any(|run| run.data.header.quick) {
        notes
            .push("Measured with --quick: few passes, so that only large differences are told from noise.".to_string());
    }
    for (name, (_, runs)) in [("A", sides.a), ("B", sides.b)] {
        let programs: BTreeSet<String> = runs.iter().map(Run::program).collect();
        if programs.len() > 1 {
            let programs: Vec<String> = programs.into_iter().collect();
            notes.push(format!("{name} holds runs of several programs: {}.", programs.join("; ")));
        }
        if runs.iter().any(|run| run.data.header.machine.dirty == Some(true)) {
            notes.push(format!("The source of {name} differed from its commit."));
        }
    }
    notes.extend(changes(sides));
    let unsettled =
        both().flat_map(|run| &run.data.settings).filter(|s| s.failure.is_none() && !s.warmup.settled).count();
    if unsettled > 0 {
        notes.push(format!("{unsettled} settings did not settle during warm-up (three windows within 2%)."));
    }
    let in_one_turn = both().filter(|run| is_of_one_turn(run)).count();
    if in_one_turn > 0 {
        notes.push(format!(
            "{in_one_turn} runs were measured in a single turn, or by a Kiln that did not record turns: how their speed \
             varies within the run is unknown, so that no difference in it is told from one run a side. Measure again with \
             two repeats or more."
        ));
    }
    let warm: usize = both()
        .flat_map(|run| {
            let file =
                |key: &str| run.data.builds.iter().find(|build| build.key == key).map_or(0, |build| build.index_bytes);
            run.data.settings.iter().map(move |s| metrics::passes_begun_warm(s, file(&s.build_key)))
        })
        .sum();
    if warm > 0 {
        notes.push(format!("{warm} passes in state cold began with part of the index in the page cache."));
    }
    let left_out =
        |skip| both().flat_map(|run| &run.data.settings).filter(|s| s.failure.is_some() && s.skip == skip).count();
    let reasons = [
        (None, "could not be measured and are left out."),
        (Some(Skip::Pruned), "were pruned after a short probe and are left out."),
        (Some(Skip::TimeBudget), "were left out because a time budget ended; a run that is continued measures them."),
    ];
    for (skip, what) in reasons {
        let count = left_out(skip);
        if count > 0 {
            notes.push(format!("{count} settings {what}"));
        }
    }
    let foreign = both().flat_map(|run| &run.data.settings).filter(|s| s.is_foreign()).count();
    if foreign > 0 {
        notes.push(format!("{foreign} settings were imported from other hardware and are compared with nothing."));
    }
    notes
}

/// Whether a run measured something, and nothing of it in two turns.
fn is_of_one_turn(run: &Run) -> bool {
    let mut measured =
        run.data.settings.iter().filter(|s| s.failure.is_none() && !s.is_foreign() && !s.runs.is_empty()).peekable();
    measured.peek().is_some() && measured.all(|s| s.runs.iter().all(|pass| pass.turn == s.runs[0].turn))
}

/// Conditions that may explain a difference, and do not forbid a comparison.
fn changes(sides: &Sides<'_>) -> Vec<String> {
    type Condition = (&'static str, fn(&Machine) -> String);
    let of = |runs: &[Run], value: fn(&Machine) -> String| -> BTreeSet<String> {
        runs.iter().map(|run| value(&run.data.header.machine)).collect()
    };
    let compared: [Condition; 6] = [
        ("instruction set", |m| m.isa.clone()),
        ("frequency governor", |m| m.governor.clone().unwrap_or("unknown".into())),
        ("system", |m| format!("kernel {}", m.kernel)),
        ("compiler", |m| m.rustc.clone()),
        ("build", |m| m.build_flags.clone()),
        ("memory limit", |m| m.memory_limit_bytes.map_or("none".into(), |bytes| format!("{bytes} bytes"))),
    ];
    (compared.into_iter())
        .filter_map(|(what, value)| {
            let (a, b) = (of(sides.a.1, value), of(sides.b.1, value));
            let listed = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join("; ");
            (a != b).then(|| format!("The {what} differs: {} in A, {} in B.", listed(&a), listed(&b)))
        })
        .collect()
}
