//! Two runs against each other.
//!
//! In: a comparison of this run, B, with a baseline, A. Out: a section with every test that decides, as ratios with their
//! intervals, and the tables of `kiln compare`.

use kiln_eval::compare::{Comparison, Decision, Verdict};

use super::Section;
use crate::axis::{Axis, Unit};
use crate::comparison;
use crate::model::shorten;
use crate::paint::{Dash, Role};
use crate::plot::{Figure, LegendItem, Mark, Panel, Plot};

/// Stages whose colours stand for the verdicts: a green and a red that differ in lightness too.
pub const STAGES: usize = 6;
const FASTER: Role = Role::Stage(3);
const SLOWER: Role = Role::Stage(5);

/// The section.
pub fn section(found: &Comparison) -> Section {
    let mut tables = comparison::tables(found);
    let figure = figure(found).map(|figure| {
        let shown = tables.iter().position(|(title, _)| title == comparison::LEVELS_TITLE);
        Figure { table: shown.map(|at| tables.remove(at).1).unwrap_or(figure.table), ..figure }
    });
    let notes = comparison::to_know(found).join(" ");
    Section {
        id: "differences".into(),
        title: "Differences to the baseline".into(),
        intro: format!("A is the baseline, {}; B is this run. {} {notes}", found.a.path, comparison::sentence(found)),
        figures: figure.into_iter().collect(),
        tables,
    }
}

fn figure(found: &Comparison) -> Option<Figure> {
    let decisions: Vec<Decision> = found.deciding().collect();
    let names: Vec<String> = decisions.iter().map(|decision| comparison::case(found, decision)).collect();
    let mut table = crate::table::Table::new(&["Compared", "B/A", "95% interval", "Verdict"]);
    let mut marks =
        vec![Mark::Guide { series: None, points: vec![(1.0, 0.0), (1.0, decisions.len() as f64)], dash: Dash::Dashed }];
    let mut reached = vec![0.98, 1.02];
    for (i, (decision, name)) in decisions.iter().zip(&names).enumerate() {
        let ratio = decision.ratio;
        reached.extend(ratio.interval.map_or([ratio.ratio; 2], |(lo, hi)| [lo, hi]));
        let role = match decision.verdict {
            Verdict::Faster => FASTER,
            Verdict::Slower => SLOWER,
            Verdict::NoDetectableDifference | Verdict::NotComparable => Role::Muted,
        };
        // Without repeats there is no saying how exact it is.
        let ends = ratio.interval.map_or("unknown".to_string(), |(lo, hi)| format!("{lo:.3} to {hi:.3}"));
        let middle = i as f64 + 0.5;
        let tip = format!("{name}\nB/A {:.3} [{ends}]\n{}", ratio.ratio, decision.verdict.words());
        let bar = |x, half: f64| Mark::Bar {
            x,
            y: (middle - half, middle + half),
            role,
            tip: tip.clone().into(),
            inside: None,
        };
        marks.extend(ratio.interval.map(|ends| bar(ends, 0.07)));
        marks.push(bar((ratio.ratio * 0.996, ratio.ratio * 1.004), 0.3));
        table.row([name.clone(), format!("{:.3}", ratio.ratio), ends, decision.verdict.words().to_string()]);
    }
    let panel = Panel {
        title: String::new(),
        x: Axis::log("queries per second, B over A", reached.into_iter(), Unit::Plain),
        y: Axis::bands(names.iter().map(|name| shorten(name, 58))),
        grid: (true, false),
        marks,
    };
    let swatch = |role, name: &str| LegendItem::Swatch { role, name: name.into() };
    let figure = Figure {
        id: "differences-qps".into(),
        title: "Throughput against the baseline".into(),
        caption: "Each line is a test: the ratio of queries a second with its 95% interval. To the right of 1 this run is \
                  faster. Colour is given only where a difference is told, after correction for all tests and above the \
                  noise floor."
            .into(),
        plot: Plot { height: 64.0 + 26.0 * decisions.len() as f64, ..Plot::single(panel) },
        choices: Vec::new(),
        legend: vec![
            swatch(FASTER, "told: faster"),
            swatch(SLOWER, "told: slower"),
            swatch(Role::Muted, Verdict::NoDetectableDifference.words()),
        ],
        table,
    };
    (!decisions.is_empty()).then_some(figure)
}
