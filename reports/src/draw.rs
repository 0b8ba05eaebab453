//! Draws a [`Plot`] as SVG, through plotters.
//!
//! In: a plot and a theme. Out: an `<svg>` element: for the page (classes, hover targets, no heading, since the
//! page has those around it) or for a picture (fixed colours, with title and legend inside).

mod legend;
mod pen;

use std::convert::Infallible;

use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::style::text_anchor::HPos;

use legend::SWATCH_WIDTH;
use pen::{Pen, stroke, text};

pub use pen::MARKER;

use crate::font::{self, Weight};
use crate::paint::{Dash, Paint, Role, Theme};
use crate::plot::{Figure, LegendItem, Panel, Plot};
use crate::svg::{SvgBackend, TENTHS, escape, px};

/// Why plotters could not draw. Writing to a string cannot fail, so only fonts and coordinates remain.
pub type DrawError = DrawingAreaErrorKind<Infallible>;

type Canvas<'a> = DrawingArea<SvgBackend<'a>, Shift>;

const TICK_SIZE: f64 = 12.0;
const TITLE_SIZE: f64 = 12.5;

/// A panel's plotting frame in units: left, right, top, bottom.
pub type Frame = [f64; 4];

/// The chart as it stands in the page, and the frames of its panels; `label` is what a screen reader says.
pub fn page_svg(plot: &Plot, label: &str) -> Result<(String, Vec<Frame>), DrawError> {
    let mut shapes = String::new();
    let mut targets = String::new();
    let frames = {
        let root = SvgBackend::new(&mut shapes, plot.width, plot.height, Theme::Page).into_drawing_area();
        draw_panels(&root, plot, &mut targets)?
    };
    let (width, height, label) = (plot.width, plot.height, escape(label));
    let svg =
        format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">\n{shapes}{targets}</svg>");
    Ok((svg, frames))
}

/// The chart as a picture of its own, with the figure's title and legend; `subtitle` says what was measured.
pub fn picture_svg(figure: &Figure, subtitle: &str) -> Result<String, DrawError> {
    let plot = &figure.plot;
    let (heading, margin) = (64.0, 16.0);
    let rows = legend::legend_rows(&figure.legend, plot.width - 2.0 * margin);
    let height = heading + plot.height + rows.len() as f64 * legend::ROW + margin + 4.0;
    let mut shapes = String::new();
    {
        let root = SvgBackend::new(&mut shapes, plot.width, height, Theme::Picture).into_drawing_area();
        root.fill(&Paint::solid(Role::Paper).disguise())?;
        text(&root, &figure.title, (margin, 27.0), 17.0, Role::Ink, HPos::Left, Weight::Bold)?;
        text(&root, subtitle, (margin, 49.0), 12.0, Role::Muted, HPos::Left, Weight::Regular)?;
        let (_, below) = root.split_vertically(px(heading));
        let (chart, below) = below.split_vertically(px(plot.height));
        let (_, chart) = chart.split_horizontally(px(margin / 2.0));
        draw_panels(&chart, plot, &mut String::new())?;
        for (row, items) in rows.iter().enumerate() {
            let y = (row as f64 + 0.8) * legend::ROW;
            for (x, item) in items {
                legend::draw_legend_item(&below, item, (margin + x, y))?;
            }
        }
    }
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {height}\" width=\"{w}\" height=\"{height}\" \
         font-family=\"{}\">\n{shapes}</svg>",
        font::FAMILY,
        w = plot.width,
    ))
}

/// The sample of a legend entry, for the page's own legend.
pub fn swatch_svg(item: &LegendItem) -> Result<String, DrawError> {
    let mut shapes = String::new();
    {
        let root = SvgBackend::new(&mut shapes, SWATCH_WIDTH, 14.0, Theme::Page).into_drawing_area();
        legend::draw_swatch(&root, item, (0.0, 7.0))?;
    }
    Ok(format!(
        "<svg class=\"swatch\" viewBox=\"0 0 {SWATCH_WIDTH} 14\" width=\"{SWATCH_WIDTH}\" height=\"14\" \
         aria-hidden=\"true\">{shapes}</svg>"
    ))
}

/// Draws every panel and appends hover targets; returns each panel's plotting frame: left, right, top, bottom.
fn draw_panels(area: &Canvas, plot: &Plot, targets: &mut String) -> Result<Vec<Frame>, DrawError> {
    // Panels share the width that y labels leave over.
    let gutters: Vec<f64> = plot.panels.iter().map(y_gutter).collect();
    let free = f64::from(area.dim_in_pixel().0) / TENTHS - gutters.iter().sum::<f64>();
    let canvas = area.use_screen_coord();
    let mut rest = area.clone();
    let mut frames = Vec::new();
    for (panel, gutter) in plot.panels.iter().zip(gutters) {
        let width = gutter + free / plot.panels.len() as f64;
        let (slot, right) = rest.split_horizontally(px(width));
        rest = right;
        frames.push(draw_panel(&canvas, &slot, panel, gutter, targets)?);
    }
    Ok(frames)
}

/// Width of the y axis' labels and title.
fn y_gutter(panel: &Panel) -> f64 {
    let labels = panel.y.ticks.iter().map(|(_, l)| font::width(l, TICK_SIZE, Weight::Regular));
    let widest = labels.fold(0.0, f64::max);
    let title = if panel.y.title.is_empty() { 0.0 } else { TITLE_SIZE + 10.0 };
    widest + title + 14.0
}

fn draw_panel(
    canvas: &Canvas,
    area: &Canvas,
    panel: &Panel,
    gutter: f64,
    targets: &mut String,
) -> Result<Frame, DrawError> {
    let heading = if panel.title.is_empty() { 0.0 } else { 24.0 };
    if heading > 0.0 {
        text(area, &panel.title, (gutter, 14.0), 13.0, Role::Ink, HPos::Left, Weight::Bold)?;
    }
    let has_x = !panel.x.ticks.is_empty();
    let x_gutter = if has_x { 26.0 } else { 6.0 } + if panel.x.title.is_empty() { 0.0 } else { 20.0 };
    let mut chart = ChartBuilder::on(area)
        .margin_top(px(10.0 + heading))
        .margin_right(px(26.0))
        .margin_left(px(2.0))
        .x_label_area_size(px(x_gutter))
        .y_label_area_size(px(gutter))
        .build_cartesian_2d(panel.x.clone(), panel.y.clone())?;
    let label = |size| font::style(size, Role::Muted, Weight::Regular);
    let mut mesh = chart.configure_mesh();
    if !panel.grid.0 {
        mesh.disable_x_mesh();
    }
    if !panel.grid.1 {
        mesh.disable_y_mesh();
    }
    mesh.bold_line_style(stroke(Role::Grid, Dash::Solid, 1.0))
        .axis_style(stroke(Role::Muted, Dash::Solid, 1.0))
        .x_label_style(label(TICK_SIZE))
        .y_label_style(label(TICK_SIZE))
        .axis_desc_style(font::style(TITLE_SIZE, Role::Ink, Weight::Regular))
        .x_desc(panel.x.title.as_str())
        .y_desc(panel.y.title.as_str())
        .set_all_tick_mark_size(px(4.0))
        .draw()?;
    // Marks are sized in units, not in data, so they are placed on the whole canvas.
    let plotting = chart.plotting_area();
    let units = |v: i32| f64::from(v) / TENTHS;
    let place = |at: (f64, f64)| {
        let (x, y) = plotting.map_coordinate(&at);
        (units(x), units(y))
    };
    let (x, y) = plotting.get_pixel_range();
    let frame = [units(x.start), units(x.end), units(y.start), units(y.end)];
    let mut pen = Pen { canvas, right: frame[1], targets };
    for mark in &panel.marks {
        pen.mark(mark, &place)?;
    }
    Ok(frame)
}
