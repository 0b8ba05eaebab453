//! What of one side goes with what of the other, and why the rest goes with nothing.
//!
//! In: the subjects of both sides. Out: [`Matched`] lines, and what is not comparable with its reason.

use super::collect::{Engine, Line, Place, Subject, pair_engines};
use super::model::{Unpaired, Verdict};

/// Lines of two sides that are alike.
pub(super) struct Matched<'s> {
    /// A's.
    pub a: (&'s Subject<'s>, &'s Line),
    /// B's.
    pub b: (&'s Subject<'s>, &'s Line),
}

impl Matched<'_> {
    /// The index, as A knows it.
    pub fn label(&self) -> String {
        self.a.0.engines[self.a.1.engine].label(&self.a.0.engines)
    }

    /// The index on both sides.
    pub fn engines(&self) -> (&Engine<'_>, &Engine<'_>) {
        (&self.a.0.engines[self.a.1.engine], &self.b.0.engines[self.b.1.engine])
    }

    /// Positions of settings that both sides measured.
    pub fn equal_settings(&self) -> Vec<(usize, usize)> {
        let (a, b) = (&self.a.1.series.settings, &self.b.1.series.settings);
        (a.iter().enumerate())
            .filter_map(|(i, one)| Some((i, b.iter().position(|other| other.params == one.params)?)))
            .collect()
    }
}

/// Pairs the lines of two subjects; the rest cannot be compared.
pub(super) fn match_lines<'s>(
    a: &'s Subject<'s>,
    b: &'s Subject<'s>,
    matched: &mut Vec<Matched<'s>>,
    not_comparable: &mut Vec<Unpaired>,
) {
    let (begin, engines) = (matched.len(), pair_engines(&a.engines, &b.engines));
    let partner = |line: &Line| engines.iter().find(|(one, _)| *one == line.engine).map(|(_, other)| *other);
    let alike = |one: &Line, other: &Line| {
        partner(one) == Some(other.engine) && one.mode == other.mode && one.place == other.place
    };
    for line in &a.lines {
        match b.lines.iter().find(|other| alike(line, other)) {
            Some(other) => matched.push(Matched { a: (a, line), b: (b, other) }),
            None => not_comparable.push(Unpaired {
                what: what(a, line),
                verdict: Verdict::NotComparable,
                reason: missing(
                    line,
                    &b.lines.iter().filter(|other| partner(line) == Some(other.engine)).collect::<Vec<_>>(),
                    "B",
                ),
            }),
        }
    }
    for line in b.lines.iter().filter(|other| !a.lines.iter().any(|one| alike(one, other))) {
        let kin = |one: &&Line| partner(one) == Some(line.engine);
        not_comparable.push(Unpaired {
            what: what(b, line),
            verdict: Verdict::NotComparable,
            reason: missing(line, &a.lines.iter().filter(kin).collect::<Vec<_>>(), "A"),
        });
    }
    matched[begin..].sort_by_key(|pair| (pair.a.1.engine, pair.a.1.mode.order()));
}

fn what(subject: &Subject<'_>, line: &Line) -> String {
    let label = subject.engines[line.engine].label(&subject.engines);
    format!("{}, {label}, {}, {}", subject.conditions.dataset, line.mode.name(), line.place.words())
}

/// Why a line has no partner among the lines of the other side's same index.
fn missing(line: &Line, kin: &[&Line], side: &str) -> String {
    let listed = |words: Vec<String>| {
        let mut words = words;
        words.dedup();
        words.join(", ")
    };
    let here: Vec<&&Line> = kin.iter().filter(|other| other.mode == line.mode).collect();
    match (kin.is_empty(), here.is_empty()) {
        (true, _) => format!("{side} has no such index"),
        (false, true) => {
            format!("other mode: {side} has it only in {}", listed(kin.iter().map(|l| l.mode.name()).collect()))
        }
        (false, false)
            if here.iter().any(|other| {
                Place { drive: None, ..other.place.clone() } == Place { drive: None, ..line.place.clone() }
            }) =>
        {
            let drives = here.iter().filter_map(|other| other.place.drive.clone()).collect();
            format!("other machine: in {side} it lies on {}", listed(drives))
        }
        (false, false) => {
            format!("other place: {side} has it only from {}", listed(here.iter().map(|l| l.place.words()).collect()))
        }
    }
}

/// Subjects without a counterpart, with the condition that differs.
pub(super) fn apart(a: &[Subject<'_>], b: &[Subject<'_>]) -> Vec<Unpaired> {
    let unpaired = |own: &Subject<'_>, others: &[Subject<'_>], side: &str| {
        if others.iter().any(|other| own.conditions.difference(&other.conditions).is_none()) {
            return None;
        }
        // The one that is nearest: the same data, else the same name, else the only one.
        let nearest = (others.iter().find(|other| other.conditions.fingerprint == own.conditions.fingerprint))
            .or(others.iter().find(|other| other.conditions.dataset == own.conditions.dataset))
            .or(if others.len() == 1 { others.first() } else { None });
        let reason = nearest.and_then(|other| match side {
            "A" => own.conditions.difference(&other.conditions),
            _ => other.conditions.difference(&own.conditions),
        });
        Some(Unpaired {
            what: format!("{}, k = {} ({side})", own.conditions.dataset, own.conditions.k),
            verdict: Verdict::NotComparable,
            reason: reason.unwrap_or_else(|| "other data: the other side has no such set".to_string()),
        })
    };
    let only_a = a.iter().filter_map(|own| unpaired(own, b, "A"));
    only_a.chain(b.iter().filter_map(|own| unpaired(own, a, "B"))).collect()
}
