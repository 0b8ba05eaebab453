//! Pictures.
//!
//! In: an SVG that [`crate::draw::picture_svg`] made. Out: PNG bytes at twice its size, on opaque white, with the
//! embedded font and no other.

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::font;

/// Pixels a unit.
pub const SCALE: f32 = 2.0;

/// Renders an SVG; the error says what resvg refused.
pub fn render(svg: &str) -> Result<Vec<u8>, String> {
    let mut options = Options { font_family: font::FAMILY.into(), ..Options::default() };
    let fonts = options.fontdb_mut();
    fonts.load_font_data(font::REGULAR.to_vec());
    fonts.load_font_data(font::BOLD.to_vec());
    let tree = Tree::from_str(svg, &options).map_err(|e| e.to_string())?;
    let size = tree.size();
    let (width, height) = ((size.width() * SCALE).ceil(), (size.height() * SCALE).ceil());
    let mut pixmap = Pixmap::new(width as u32, height as u32)
        .ok_or_else(|| format!("no picture can be {width} x {height} pixels large"))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(|e| e.to_string())
}
