//! Legends: the page has one swatch an entry and words of its own; a picture has rows of both.
//!
//! In: legend items. Out: rows that fit a width, and plotters calls.

use plotters::element::{PathElement, Rectangle};
use plotters::style::text_anchor::HPos;

use super::pen::{MARKER, draw_marker, fill, stroke, text};
use super::{Canvas, DrawError, TICK_SIZE};
use crate::font::{self, Weight};
use crate::paint::{Role, series_dash, series_marker};
use crate::plot::LegendItem;
use crate::svg::px;

/// Height of a row.
pub(super) const ROW: f64 = 22.0;
/// Width of the sample before the words.
pub(super) const SWATCH_WIDTH: f64 = 34.0;

/// Breaks a legend into rows no wider than `width`; each entry with its offset.
pub(super) fn legend_rows(items: &[LegendItem], width: f64) -> Vec<Vec<(f64, &LegendItem)>> {
    let mut rows: Vec<Vec<(f64, &LegendItem)>> = Vec::new();
    let mut x = 0.0;
    for item in items {
        let needs = SWATCH_WIDTH + 8.0 + font::width(item.name(), TICK_SIZE, Weight::Regular);
        match rows.last_mut() {
            Some(row) if x + needs <= width => row.push((x, item)),
            _ => {
                x = 0.0;
                rows.push(vec![(x, item)]);
            }
        }
        x += needs + 24.0;
    }
    rows
}

pub(super) fn draw_legend_item(canvas: &Canvas, item: &LegendItem, (x, y): (f64, f64)) -> Result<(), DrawError> {
    draw_swatch(canvas, item, (x, y))?;
    text(canvas, item.name(), (x + SWATCH_WIDTH + 8.0, y), TICK_SIZE, Role::Ink, HPos::Left, Weight::Regular)
}

pub(super) fn draw_swatch(canvas: &Canvas, item: &LegendItem, (x, y): (f64, f64)) -> Result<(), DrawError> {
    match item {
        LegendItem::Series { series, .. } => {
            let role = Role::series(*series);
            let ends = [(px(x), px(y)), (px(x + SWATCH_WIDTH), px(y))];
            canvas.draw(&PathElement::new(ends, stroke(role, series_dash(*series), 2.0)))?;
            draw_marker(canvas, series_marker(*series), (x + SWATCH_WIDTH / 2.0, y), MARKER, role, 1.0)
        }
        LegendItem::Guide { dash, .. } => {
            let ends = [(px(x), px(y)), (px(x + SWATCH_WIDTH), px(y))];
            canvas.draw(&PathElement::new(ends, stroke(Role::Muted, *dash, 1.0)))
        }
        LegendItem::Swatch { role, .. } => {
            let corners = [(px(x + 12.0), px(y - 6.0)), (px(x + SWATCH_WIDTH), px(y + 6.0))];
            canvas.draw(&Rectangle::new(corners, fill(*role)))
        }
    }
}
