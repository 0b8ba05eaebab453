//! What a stroke or a fill means, and how it looks.
//!
//! In: roles (axis ink, the third series, the second build stage). Out: colours of the printed theme and CSS
//! classes of the page. plotters knows only RGB, so a [`Paint`] travels through it disguised as one and the SVG
//! backend turns it back; that is how one drawing serves light, dark and print.

use plotters::style::RGBColor;
use serde::{Serialize, Serializer};

/// Okabe and Ito's colours for series, most distinct first, three of them darkened until they stand out from white
/// (3 to 1). Their yellow is left out (as dark as that it is an olive), and their black is the ink of the theme.
const SERIES_LIGHT: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cb76a5", "#c18600", "#1d99e0", "#1b1f24"];
/// The same hues for dark paper: the blue is lighter, and ink is white.
const SERIES_DARK: [&str; 7] = ["#3d9fe0", "#e8722a", "#17b58a", "#d98fb8", "#e69f00", "#7cc8f2", "#e9e7e4"];
/// Colours of build stages: the same set in an order that keeps neighbours apart, and some of Paul Tol's; all neither too
/// light for white paper nor too dark for black, and light enough to carry black text.
const STAGES: [&str; 10] =
    ["#1d99e0", "#c18600", "#007fc6", "#009e73", "#cb76a5", "#d55e00", "#9e940d", "#d04289", "#40a090", "#b0805c"];

/// What a shape stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Text and axes.
    Ink,
    /// Secondary text.
    Muted,
    /// Grid lines.
    Grid,
    /// Background.
    Paper,
    /// Black on any theme: text on the colour of a stage.
    Black,
    /// The n-th series.
    Series(u8),
    /// The n-th stage of a build.
    Stage(u8),
}

impl Serialize for Role {
    /// The suffix of its classes, which is all that the page's script needs.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.class())
    }
}

/// Line patterns, so that series differ without colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dash {
    /// Unbroken.
    Solid,
    /// Long dashes.
    Dashed,
    /// Dots.
    Dotted,
    /// Dash, dot, dash, dot.
    Alternating,
}

impl Serialize for Dash {
    /// `stroke-dasharray`, or null.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.pattern().serialize(serializer)
    }
}

/// Marker shapes, so that series differ without colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// A disc.
    Circle,
    /// A square on its side.
    Square,
    /// A triangle that points up.
    Triangle,
    /// A square on its corner.
    Diamond,
    /// A triangle that points down.
    TriangleDown,
    /// A five-pointed star.
    Star,
    /// An upright cross.
    Plus,
    /// A pentagon.
    Pentagon,
}

/// A role and a line pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    /// What it stands for.
    pub role: Role,
    /// Pattern of lines drawn with it.
    pub dash: Dash,
}

/// The page adapts through CSS; a picture has fixed colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// CSS classes; colours come from the page.
    Page,
    /// Fixed colours on white.
    Picture,
}

impl Dash {
    /// `stroke-dasharray`, if any.
    pub fn pattern(self) -> Option<&'static str> {
        match self {
            Dash::Solid => None,
            Dash::Dashed => Some("7 3"),
            Dash::Dotted => Some("1.5 3"),
            Dash::Alternating => Some("7 3 1.5 3"),
        }
    }
}

impl Marker {
    /// Its corners around its centre, in parts of its radius; `None` for a disc. Equal steps from the top, on one radius
    /// or alternating between two.
    pub fn corners(self) -> Option<Vec<(f64, f64)>> {
        let ring = |turn: f64, radii: &[f64]| {
            let corners = radii.iter().enumerate().map(|(i, radius)| {
                let angle = std::f64::consts::TAU * (i as f64 / radii.len() as f64 + turn);
                (radius * angle.sin(), -radius * angle.cos())
            });
            Some(corners.collect())
        };
        match self {
            Marker::Circle => None,
            Marker::Square => ring(0.125, &[1.25; 4]),
            Marker::Diamond => ring(0.0, &[1.3; 4]),
            Marker::Triangle => ring(0.0, &[1.3; 3]),
            Marker::TriangleDown => ring(0.5, &[1.3; 3]),
            Marker::Pentagon => ring(0.0, &[1.2; 5]),
            Marker::Star => ring(0.0, &[1.55, 0.65].repeat(5)),
            Marker::Plus => ring(-1.0 / 24.0, &[1.25, 1.25, 0.5].repeat(4)),
        }
    }
}

/// Line pattern of the n-th series.
pub fn series_dash(index: usize) -> Dash {
    [Dash::Solid, Dash::Dashed, Dash::Dotted, Dash::Alternating][index % 4]
}

/// Marker of the n-th series; with 7 colours, a pair of both repeats after 56.
pub fn series_marker(index: usize) -> Marker {
    use Marker::{Circle, Diamond, Pentagon, Plus, Square, Star, Triangle, TriangleDown};
    [Circle, Square, Triangle, Diamond, TriangleDown, Star, Plus, Pentagon][index % 8]
}

impl Role {
    /// The series' role; past 255 colours repeat anyway.
    pub fn series(index: usize) -> Role {
        Role::Series((index % 256) as u8)
    }

    /// The stage's role.
    pub fn stage(index: usize) -> Role {
        Role::Stage((index % 256) as u8)
    }

    /// Suffix of the CSS classes `s-` (stroke) and `f-` (fill).
    pub fn class(self) -> String {
        match self {
            Role::Ink => "ink".into(),
            Role::Muted => "muted".into(),
            Role::Grid => "grid".into(),
            Role::Paper => "paper".into(),
            Role::Black => "black".into(),
            Role::Series(i) => i.to_string(),
            Role::Stage(i) => format!("t{i}"),
        }
    }

    /// Colour in a picture.
    pub fn colour(self) -> &'static str {
        match self {
            Role::Ink => "#1b1f24",
            Role::Muted => "#5b636e",
            Role::Grid => "#e3e6ea",
            Role::Paper => "#ffffff",
            Role::Black => "#000000",
            Role::Series(i) => SERIES_LIGHT[usize::from(i) % SERIES_LIGHT.len()],
            Role::Stage(i) => STAGES[usize::from(i) % STAGES.len()],
        }
    }
}

impl Paint {
    /// A solid paint.
    pub fn solid(role: Role) -> Paint {
        Paint { role, dash: Dash::Solid }
    }

    /// The disguise in which it passes through plotters.
    pub fn disguise(self) -> RGBColor {
        let (kind, index) = match self.role {
            Role::Ink => (0, 0),
            Role::Muted => (1, 0),
            Role::Grid => (2, 0),
            Role::Paper => (3, 0),
            Role::Black => (4, 0),
            Role::Series(i) => (5, i),
            Role::Stage(i) => (6, i),
        };
        RGBColor(kind, index, self.dash as u8)
    }

    /// Undoes [`Paint::disguise`]; a colour that never was a paint is ink.
    pub fn unmask((kind, index, dash): (u8, u8, u8)) -> Paint {
        let role = match kind {
            1 => Role::Muted,
            2 => Role::Grid,
            3 => Role::Paper,
            4 => Role::Black,
            5 => Role::Series(index),
            6 => Role::Stage(index),
            _ => Role::Ink,
        };
        Paint { role, dash: series_dash(usize::from(dash)) }
    }
}

/// The rules that colour the page's charts: two custom properties for each series and stage, and the classes
/// that [`Role::class`] names. `series` and `stages` are how many the page draws.
pub fn chart_css(series: usize, stages: usize) -> String {
    let mut css = String::new();
    let mut dark = String::new();
    let mut rule = |class: String, colour: &str| {
        css.push_str(&format!(".f-{class}{{fill:{colour}}}.s-{class}{{fill:none;stroke:{colour}}}\n"));
    };
    for role in [Role::Ink, Role::Muted, Role::Grid, Role::Paper] {
        rule(role.class(), &format!("var(--{})", role.class()));
    }
    rule(Role::Black.class(), Role::Black.colour());
    for i in 0..series {
        rule(Role::series(i).class(), &format!("var(--c{})", i % SERIES_LIGHT.len()));
    }
    for i in 0..stages {
        rule(Role::stage(i).class(), Role::stage(i).colour());
    }
    let mut light = String::new();
    for (i, (on_light, on_dark)) in SERIES_LIGHT.iter().zip(SERIES_DARK).enumerate() {
        light.push_str(&format!("--c{i}:{on_light};"));
        dark.push_str(&format!("--c{i}:{on_dark};"));
    }
    for i in 0..series {
        css.push_str(&format!(
            "body:has(#series-{i}:not(:checked)) :is(.f-{i},.s-{i}){{display:none}}\
             body:has(#series-{i}:not(:checked)) [for=series-{i}]{{opacity:.4}}\n"
        ));
    }
    format!(":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{css}")
}

#[cfg(test)]
#[path = "paint_tests.rs"]
mod tests;
