//! The embedded font.
//!
//! In: the subset of DejaVu Sans under `assets/`. Out: text styles and widths for charts, the same bytes for pictures,
//! and `@font-face` rules for the page, so that text is measured and drawn alike everywhere.

use std::sync::Once;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plotters::style::{Color, FontDesc, FontFamily, FontStyle, TextStyle, register_font};

use crate::paint::{Paint, Role};
use crate::svg::TENTHS;

/// Name of the family in SVG and CSS.
pub const FAMILY: &str = "DejaVu Sans";

/// TrueType bytes: regular.
pub const REGULAR: &[u8] = include_bytes!("../assets/DejaVuSans-subset.ttf");
/// TrueType bytes: bold.
pub const BOLD: &[u8] = include_bytes!("../assets/DejaVuSans-Bold-subset.ttf");

const REGULAR_WOFF2: &[u8] = include_bytes!("../assets/DejaVuSans-subset.woff2");
const BOLD_WOFF2: &[u8] = include_bytes!("../assets/DejaVuSans-Bold-subset.woff2");

/// Ascent plus descent in ems: plotters' `ab_glyph` scales by that height where SVG scales by the em.
const EM_HEIGHT: f64 = (1901.0 + 483.0) / 2048.0;

/// The two weights of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Text.
    Regular,
    /// Headings.
    Bold,
}

impl Weight {
    fn style(self) -> FontStyle {
        match self {
            Weight::Regular => FontStyle::Normal,
            Weight::Bold => FontStyle::Bold,
        }
    }
}

/// Registers the fonts with plotters, once a process.
fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (weight, bytes) in [(Weight::Regular, REGULAR), (Weight::Bold, BOLD)] {
            // The bytes are part of the program and a test measures text with them; without them plotters would
            // report a missing font when it draws.
            let _ = register_font(FAMILY, weight.style(), bytes);
        }
    });
}

/// Style of a text of `size` units, in plotters' pixels.
pub fn style(size: f64, role: Role, weight: Weight) -> TextStyle<'static> {
    register();
    let font = FontDesc::new(FontFamily::Name(FAMILY), size * TENTHS, weight.style());
    let mut style = TextStyle::from(font);
    style.color = Paint::solid(role).disguise().to_backend_color();
    style
}

/// Width of a text in units; zero if it cannot be measured.
pub fn width(text: &str, size: f64, weight: Weight) -> f64 {
    register();
    let font = FontDesc::new(FontFamily::Name(FAMILY), size * TENTHS * EM_HEIGHT, weight.style());
    font.box_size(text).map_or(0.0, |(width, _)| f64::from(width) / TENTHS)
}

/// `@font-face` rules with the font inside.
pub fn font_face_css() -> String {
    let face = |weight: &str, bytes: &[u8]| {
        format!(
            "@font-face{{font-family:\"{FAMILY}\";font-weight:{weight};src:url(data:font/woff2;base64,{}) format(\"woff2\")}}\n",
            STANDARD.encode(bytes)
        )
    };
    face("400", REGULAR_WOFF2) + &face("700", BOLD_WOFF2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_measured_with_the_embedded_font() {
        // DejaVu Sans: 'M' is 1767 units of 2048 wide, bold 'M' 2038.
        let regular = width("MMMM", 12.0, Weight::Regular);
        assert!((regular - 4.0 * 12.0 * 1767.0 / 2048.0).abs() < 0.5, "{regular}");
        let bold = width("MMMM", 12.0, Weight::Bold);
        assert!((bold - 4.0 * 12.0 * 2038.0 / 2048.0).abs() < 0.5, "{bold}");
    }
}
