//! Charts as the page's script reads them.
//!
//! In: the figures of the page, with the frames in which they were drawn, and the looks of their series. Out: one JSON
//! document, the specification from which the static charts were drawn, to be drawn again by `templates/*.js`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::draw::{Frame, MARKER};
use crate::error::ReportError;
use crate::model::Model;
use crate::paint::{series_dash, series_marker};
use crate::plot::Figure;

/// The document, grown figure by figure.
pub struct ChartJson {
    series: Vec<Value>,
    charts: serde_json::Map<String, Value>,
    /// Places of tips by what they say: charts of one setting share them.
    tips: BTreeMap<String, usize>,
    said: Vec<Value>,
}

impl ChartJson {
    /// A document without charts; series look as they do in static ones.
    pub fn new(model: &Model) -> ChartJson {
        let looks = model.coloured().into_iter().enumerate().map(|(i, name)| {
            let corners = series_marker(i).corners().map(|corners| {
                let placed = corners.iter().map(|(x, y)| format!("{:.2},{:.2}", x * MARKER, y * MARKER));
                placed.collect::<Vec<_>>().join(" ")
            });
            json!({ "name": name, "dash": series_dash(i), "marker": corners })
        });
        ChartJson { series: looks.collect(), charts: serde_json::Map::new(), tips: BTreeMap::new(), said: Vec::new() }
    }

    /// Adds a figure; `frames` are those of its panels, for each choice of axes.
    pub fn add(&mut self, figure: &Figure, frames: &[Vec<Frame>]) {
        let mut chart = json!({
            "title": figure.title,
            "plot": figure.plot,
            "choices": figure.choices,
            "frames": frames,
            "zooms": figure.plot.zooms(),
        });
        self.shorten(&mut chart);
        self.charts.insert(figure.id.clone(), chart);
    }

    /// The document, safe inside a `<script>` element: no text in it can end the element.
    pub fn text(self) -> Result<String, ReportError> {
        let document = json!({ "radius": MARKER, "series": self.series, "tips": self.said, "charts": self.charts });
        Ok(serde_json::to_string(&document)?.replace('<', "\\u003c"))
    }

    /// Rounds numbers to what can be seen, and replaces tips by their places.
    fn shorten(&mut self, value: &mut Value) {
        match value {
            Value::Number(number) if number.is_f64() => {
                let rounded = number.as_f64().and_then(|number| format!("{number:.6e}").parse::<f64>().ok());
                *value = match rounded {
                    // Whole numbers need no point.
                    Some(whole) if whole.fract() == 0.0 && whole.abs() < 1e15 => json!(whole as i64),
                    rounded => json!(rounded),
                };
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.shorten(item)),
            Value::Object(fields) => {
                for (name, field) in fields {
                    match name.as_str() {
                        "tip" => *field = json!(self.place(field)),
                        _ => self.shorten(field),
                    }
                }
            }
            _ => {}
        }
    }

    fn place(&mut self, tip: &Value) -> usize {
        let next = self.said.len();
        let place = *self.tips.entry(tip.to_string()).or_insert(next);
        if place == next {
            self.said.push(json!([tip["text"], tip["copy"]]));
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{charts, draw, fixture};

    #[test]
    fn every_mark_of_every_chart_is_told_once() {
        let data = fixture::run();
        let model = Model::new(&data);
        let sections = charts::sections(&model, None);
        let mut document = ChartJson::new(&model);
        let figures: Vec<&Figure> = sections.iter().flat_map(|section| &section.figures).collect();
        for figure in &figures {
            let frames: Vec<Vec<Frame>> =
                figure.plots().iter().map(|(_, plot)| draw::page_svg(plot, "").expect("drawn").1).collect();
            document.add(figure, &frames);
        }
        let told: Value = serde_json::from_str(&document.text().expect("JSON")).expect("JSON");
        assert_eq!(told["charts"].as_object().map(|charts| charts.len()), Some(figures.len()));
        for figure in figures {
            let chart = &told["charts"][&figure.id];
            let marks = chart["plot"]["panels"][0]["marks"].as_array().expect("marks");
            assert_eq!(marks.len(), figure.plot.panels[0].marks.len(), "{}", figure.id);
            assert_eq!(chart["frames"].as_array().map(Vec::len), Some(figure.choices.len().max(1)), "{}", figure.id);
        }
        // A setting says the same on every chart.
        let tips: Vec<&str> = told["tips"].as_array().expect("tips").iter().filter_map(|tip| tip[0].as_str()).collect();
        let mut once = tips.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(tips.len(), once.len());
    }

    #[test]
    fn nothing_ends_the_element() {
        let mut data = fixture::run();
        data.builds[0].index = "</script><script>alert(1)".into();
        let document = ChartJson::new(&Model::new(&data)).text().expect("JSON");
        assert!(document.contains("alert(1)") && !document.contains('<'), "{document}");
    }
}
