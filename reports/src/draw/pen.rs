//! Marks inside one panel, and the strokes, fills and words that everything is drawn with.
//!
//! In: a [`Mark`] and a function that places its coordinates on the canvas, in units. Out: plotters calls, and the hover
//! targets of the page.

use std::fmt::Write;

use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, ShapeStyle};

use super::{Canvas, DrawError, TICK_SIZE};
use crate::font::{self, Weight};
use crate::paint::{Dash, Marker, Paint, Role, series_dash, series_marker};
use crate::plot::Mark;
use crate::svg::{escape, px};

/// Radius of a marker.
pub const MARKER: f64 = 4.6;

/// Draws the marks of one panel.
pub(super) struct Pen<'p, 'a> {
    /// The whole canvas.
    pub canvas: &'p Canvas<'a>,
    /// Right edge of the frame.
    pub right: f64,
    /// Appended to: invisible shapes that carry tooltips.
    pub targets: &'p mut String,
}

impl Pen<'_, '_> {
    /// Draws one mark.
    pub fn mark(&mut self, mark: &Mark, place: &dyn Fn((f64, f64)) -> (f64, f64)) -> Result<(), DrawError> {
        match mark {
            Mark::Line { series, points } => {
                let style = stroke(Role::series(*series), series_dash(*series), 2.0);
                self.path(points.iter().map(|p| place(*p)), style)
            }
            Mark::Guide { points, dash, .. } => {
                let style = stroke(Role::Muted, *dash, 1.0);
                self.path(points.iter().map(|p| place(*p)), style)
            }
            Mark::Point { series, at, whisker, faint, tip } => {
                let role = Role::series(*series);
                let alpha = if *faint { 0.4 } else { 1.0 };
                if let Some((lo, hi)) = whisker {
                    let ((x, bottom), (_, top)) = (place((at.0, *lo)), place((at.0, *hi)));
                    // A whisker that its own marker hides would only be noise.
                    if bottom - top > 9.0 {
                        let style = faded(role, alpha, 1.2);
                        self.path([(x, bottom), (x, top)].into_iter(), style)?;
                        self.path([(x - 3.0, top), (x + 3.0, top)].into_iter(), style)?;
                        self.path([(x - 3.0, bottom), (x + 3.0, bottom)].into_iter(), style)?;
                    }
                }
                let centre = place(*at);
                draw_marker(self.canvas, series_marker(*series), centre, MARKER, role, alpha)?;
                let _ = writeln!(
                    self.targets,
                    "<circle class=\"hit f-{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"9\"><title>{}</title></circle>",
                    role.class(),
                    centre.0,
                    centre.1,
                    escape(&tip.text)
                );
                Ok(())
            }
            Mark::Bar { x, y, role, tip, inside } => {
                let (low, high) = (place((x.0, y.0)), place((x.1, y.1)));
                let (left, right) = (low.0.min(high.0), low.0.max(high.0));
                let (top, bottom) = (low.1.min(high.1), low.1.max(high.1));
                let corners = [(px(left), px(top)), (px(right), px(bottom))];
                self.canvas.draw(&Rectangle::new(corners, fill(*role)))?;
                if let Some((words, ink)) = inside
                    && font::width(words, 11.0, Weight::Regular) + 8.0 < right - left
                {
                    let centre = ((left + right) / 2.0, (top + bottom) / 2.0);
                    text(self.canvas, words, centre, 11.0, *ink, HPos::Center, Weight::Regular)?;
                }
                let _ = writeln!(
                    self.targets,
                    "<rect class=\"hit\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
                    left,
                    top,
                    (right - left).max(1.0),
                    bottom - top,
                    escape(&tip.text)
                );
                Ok(())
            }
            Mark::Text { at, text: words, .. } => {
                let (x, y) = place(*at);
                let room = self.right + 18.0 - x;
                let (x, anchor) = if font::width(words, TICK_SIZE, Weight::Regular) + 6.0 > room {
                    (x - 6.0, HPos::Right)
                } else {
                    (x + 6.0, HPos::Left)
                };
                text(self.canvas, words, (x, y), TICK_SIZE, Role::Ink, anchor, Weight::Regular)
            }
        }
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>, style: ShapeStyle) -> Result<(), DrawError> {
        let points: Vec<(i32, i32)> = points.map(|(x, y)| (px(x), px(y))).collect();
        self.canvas.draw(&PathElement::new(points, style))
    }
}

pub(super) fn draw_marker(
    canvas: &Canvas,
    marker: Marker,
    (x, y): (f64, f64),
    radius: f64,
    role: Role,
    alpha: f64,
) -> Result<(), DrawError> {
    let style = ShapeStyle { color: Paint::solid(role).disguise().mix(alpha), filled: true, stroke_width: 0 };
    match marker.corners() {
        None => canvas.draw(&Circle::new((px(x), px(y)), px(radius) as u32, style)),
        Some(corners) => {
            let placed = corners.iter().map(|(dx, dy)| (px(x + radius * dx), px(y + radius * dy)));
            canvas.draw(&Polygon::new(placed.collect::<Vec<_>>(), style))
        }
    }
}

pub(super) fn text(
    canvas: &Canvas,
    words: &str,
    (x, y): (f64, f64),
    size: f64,
    role: Role,
    anchor: HPos,
    weight: Weight,
) -> Result<(), DrawError> {
    let style = font::style(size, role, weight).pos(Pos::new(anchor, VPos::Center));
    canvas.draw(&Text::new(words, (px(x), px(y)), style))
}

pub(super) fn stroke(role: Role, dash: Dash, width: f64) -> ShapeStyle {
    ShapeStyle { color: Paint { role, dash }.disguise().to_rgba(), filled: false, stroke_width: px(width) as u32 }
}

fn faded(role: Role, alpha: f64, width: f64) -> ShapeStyle {
    ShapeStyle { color: Paint::solid(role).disguise().mix(alpha), filled: false, stroke_width: px(width) as u32 }
}

pub(super) fn fill(role: Role) -> ShapeStyle {
    ShapeStyle { color: Paint::solid(role).disguise().to_rgba(), filled: true, stroke_width: 0 }
}
