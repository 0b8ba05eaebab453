//! What a chart is made of, before anything is drawn.
//!
//! In: nothing; these are plain data that [`crate::charts`] fills. Out: [`Figure`]s. This is the one specification of a
//! chart: [`crate::draw`] makes its static SVG of it, and [`crate::chart_json`] hands it to the page's script, which draws
//! it again where a reader hides a series or zooms in.

use std::borrow::Cow;

use serde::Serialize;

use crate::axis::{Axis, Unit};
use crate::paint::{Dash, Role};
use crate::table::Table;

/// A chart with everything around it.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Name of its file and of its anchor on the page: `recall-qps-latency-1`.
    pub id: String,
    /// Heading.
    pub title: String,
    /// What it shows and how to read it.
    pub caption: String,
    /// The chart.
    pub plot: Plot,
    /// Other axes for its one panel, on a toggle; the first are the panel's own. Empty where there is no choice.
    pub choices: Vec<Axes>,
    /// What the looks mean.
    pub legend: Vec<LegendItem>,
    /// The figures behind the chart.
    pub table: Table,
}

/// One choice of axes.
#[derive(Debug, Clone, Serialize)]
pub struct Axes {
    /// Name of the choice.
    pub name: &'static str,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
}

/// Panels side by side.
#[derive(Debug, Clone, Serialize)]
pub struct Plot {
    /// Width in units (pixels at normal size).
    pub width: f64,
    /// Height in units.
    pub height: f64,
    /// From left to right.
    pub panels: Vec<Panel>,
    /// Whether the page's recall threshold is drawn on it: x is recall and there is one panel.
    pub threshold: bool,
}

/// One pair of axes and what is drawn on it.
#[derive(Debug, Clone, Serialize)]
pub struct Panel {
    /// Heading; empty where the figure's own suffices.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// Whether grid lines cross the x axis, the y axis.
    pub grid: (bool, bool),
    /// Back to front.
    pub marks: Vec<Mark>,
}

/// Something drawn in a panel's coordinates.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "mark", rename_all = "lowercase")]
pub enum Mark {
    /// A line of a series.
    Line {
        /// Which.
        series: usize,
        /// Corners.
        points: Vec<(f64, f64)>,
    },
    /// A line in no series' colour.
    Guide {
        /// The series with which it is hidden; `None` for one that always stays.
        #[serde(skip_serializing_if = "Option::is_none")]
        series: Option<usize>,
        /// Corners.
        points: Vec<(f64, f64)>,
        /// Pattern.
        dash: Dash,
    },
    /// A marker of a series.
    Point {
        /// Which.
        series: usize,
        /// Where.
        at: (f64, f64),
        /// Interval of y.
        #[serde(skip_serializing_if = "Option::is_none")]
        whisker: Option<(f64, f64)>,
        /// Drawn pale: measured, but not on the frontier.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        faint: bool,
        /// Shown on hover.
        tip: Tip,
    },
    /// A rectangle.
    Bar {
        /// Left and right.
        x: (f64, f64),
        /// Bottom and top.
        y: (f64, f64),
        /// Its colour.
        role: Role,
        /// Shown on hover.
        tip: Tip,
        /// Written inside, in the given role, if it fits.
        #[serde(skip_serializing_if = "Option::is_none")]
        inside: Option<(String, Role)>,
    },
    /// Text that starts at a point (or ends there, where it would leave the panel).
    Text {
        /// Where.
        at: (f64, f64),
        /// What.
        text: String,
        /// The series that it speaks of: hidden with it.
        #[serde(skip_serializing_if = "Option::is_none")]
        series: Option<usize>,
    },
}

/// What hovering over a mark shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Tip {
    /// Lines, the first of which is a heading.
    pub text: String,
    /// What a click copies: the command that measures it again, or its parameters; empty where there is nothing to copy.
    pub copy: String,
}

impl From<String> for Tip {
    fn from(text: String) -> Tip {
        Tip { text, copy: String::new() }
    }
}

/// One entry of a legend.
#[derive(Debug, Clone)]
pub enum LegendItem {
    /// A series: line, marker, name.
    Series {
        /// Which.
        series: usize,
        /// Its name.
        name: String,
    },
    /// A colour.
    Swatch {
        /// Which.
        role: Role,
        /// Its name.
        name: String,
    },
    /// A line that belongs to no series.
    Guide {
        /// Its pattern.
        dash: Dash,
        /// Its name.
        name: String,
    },
}

impl LegendItem {
    /// What stands beside the sample.
    pub fn name(&self) -> &str {
        let (Self::Series { name, .. } | Self::Swatch { name, .. } | Self::Guide { name, .. }) = self;
        name
    }
}

impl Plot {
    /// One panel of the usual size.
    pub fn single(panel: Panel) -> Plot {
        Plot { width: 880.0, height: 440.0, panels: vec![panel], threshold: false }
    }

    /// Whether the page's script may narrow the axes: bars and several panels stay whole.
    pub fn zooms(&self) -> bool {
        let bars = |panel: &Panel| panel.marks.iter().any(|mark| matches!(mark, Mark::Bar { .. }));
        matches!(self.panels.as_slice(), [panel] if !bars(panel) && panel.y.unit != Unit::Named)
    }
}

impl Figure {
    /// The figure unless nothing would be drawn on it.
    pub fn if_drawn(self) -> Option<Figure> {
        let drawn = self.plot.panels.iter().any(|panel| !panel.marks.is_empty());
        drawn.then_some(self)
    }

    /// The plot on every choice of axes, with the name of the choice; it has none where there is one.
    pub fn plots(&self) -> Vec<(&'static str, Cow<'_, Plot>)> {
        if self.choices.is_empty() {
            return vec![("", Cow::Borrowed(&self.plot))];
        }
        let on = |axes: &Axes| {
            let mut plot = self.plot.clone();
            for panel in &mut plot.panels {
                (panel.x, panel.y) = (axes.x.clone(), axes.y.clone());
            }
            (axes.name, Cow::Owned(plot))
        };
        self.choices.iter().map(on).collect()
    }
}
