//! What a chart is made of, before anything is drawn.
//!
//! In: nothing; these are plain data that [`crate::charts`] fills. Out: [`Figure`]s, which [`crate::draw`] turns into
//! SVG and [`crate::html`] into a page.

use crate::axis::Axis;
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
    /// The chart, on one or more choices of axes; the first is the default.
    pub views: Vec<View>,
    /// What the looks mean.
    pub legend: Vec<LegendItem>,
    /// The figures behind the chart.
    pub table: Table,
    /// Whether it is also written as a PNG.
    pub picture: bool,
}

/// A chart on one choice of axes.
#[derive(Debug, Clone)]
pub struct View {
    /// Name of the choice; empty where there is only one.
    pub name: &'static str,
    /// The chart.
    pub plot: Plot,
}

/// Panels side by side.
#[derive(Debug, Clone)]
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
#[derive(Debug, Clone)]
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
#[derive(Debug, Clone)]
pub enum Mark {
    /// A line of a series.
    Line {
        /// Which.
        series: usize,
        /// Corners.
        points: Vec<(f64, f64)>,
    },
    /// A line that belongs to no series.
    Guide {
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
        whisker: Option<(f64, f64)>,
        /// Drawn pale: measured, but not on the frontier.
        faint: bool,
        /// Shown on hover; the last line is copied on a click.
        tip: String,
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
        tip: String,
        /// Written inside, in the given role, if it fits.
        inside: Option<(String, Role)>,
    },
    /// Text that starts at a point (or ends there, where it would leave the panel).
    Text {
        /// Where.
        at: (f64, f64),
        /// What.
        text: String,
    },
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
}

impl Figure {
    /// The figure unless nothing would be drawn on it.
    pub fn if_drawn(self) -> Option<Figure> {
        let drawn = (self.views.iter()).flat_map(|view| &view.plot.panels).any(|panel| !panel.marks.is_empty());
        drawn.then_some(self)
    }
}
