//! A plotters backend that writes themed SVG.
//!
//! In: plotters' drawing calls, in tenths of a unit (plotters has integer coordinates; tenths keep curves smooth).
//! Out: SVG elements whose colours are CSS classes (page) or fixed (picture), with dash patterns.

use std::convert::Infallible;
use std::fmt::Write;

use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontStyle,
    FontTransform,
};

use crate::paint::{Paint, Theme};

/// Drawing units a plotters pixel: everything that passes through plotters is this many times larger.
pub const TENTHS: f64 = 10.0;

/// A length in plotters' pixels.
pub fn px(length: f64) -> i32 {
    (length * TENTHS).round() as i32
}

/// Appends elements to `out`.
pub struct SvgBackend<'a> {
    out: &'a mut String,
    size: (u32, u32),
    theme: Theme,
}

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl<'a> SvgBackend<'a> {
    /// A canvas of `width` x `height` units.
    pub fn new(out: &'a mut String, width: f64, height: f64, theme: Theme) -> Self {
        let size = ((width * TENTHS) as u32, (height * TENTHS) as u32);
        SvgBackend { out, size, theme }
    }

    /// Opens `<name`, with the colour and opacity of a stroke or a fill.
    fn open(&mut self, name: &str, colour: BackendColor, filled: bool) {
        let paint = Paint::unmask(colour.rgb);
        self.push(format_args!("<{name}"));
        match (self.theme, filled) {
            (Theme::Page, true) => self.push(format_args!(" class=\"f-{}\"", paint.role.class())),
            (Theme::Page, false) => self.push(format_args!(" class=\"s-{}\"", paint.role.class())),
            (Theme::Picture, true) => self.push(format_args!(" fill=\"{}\"", paint.role.colour())),
            (Theme::Picture, false) => {
                self.push(format_args!(" fill=\"none\" stroke=\"{}\"", paint.role.colour()));
            }
        }
        if colour.alpha < 1.0 {
            self.push(format_args!(" opacity=\"{}\"", colour.alpha));
        }
        if let (false, Some(pattern)) = (filled, paint.dash.pattern()) {
            self.push(format_args!(" stroke-dasharray=\"{pattern}\""));
        }
    }

    fn stroke_width<S: BackendStyle>(&mut self, style: &S) {
        let width = tenths(style.stroke_width() as i32);
        if width != "1" {
            self.push(format_args!(" stroke-width=\"{width}\""));
        }
    }

    fn points(&mut self, points: impl IntoIterator<Item = BackendCoord>) {
        self.out.push_str(" points=\"");
        for (i, (x, y)) in points.into_iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            self.push(format_args!("{gap}{},{}", tenths(x), tenths(y)));
        }
        self.out.push('"');
    }

    fn push(&mut self, text: std::fmt::Arguments) {
        // Writing to a String cannot fail.
        let _ = self.out.write_fmt(text);
    }
}

/// Tenths as units, without a trailing `.0`.
fn tenths(value: i32) -> String {
    let sign = if value < 0 { "-" } else { "" };
    match (value.unsigned_abs() / 10, value.unsigned_abs() % 10) {
        (whole, 0) => format!("{sign}{whole}"),
        (whole, part) => format!("{sign}{whole}.{part}"),
    }
}

/// Escapes text for XML content and attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML allows no other control characters, not even escaped.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

impl DrawingBackend for SvgBackend<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, colour: BackendColor) -> Drawn {
        self.draw_rect((x, y), (x + 1, y + 1), &colour, true)
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        self.open("polyline", style.color(), false);
        self.stroke_width(style);
        self.points(path);
        self.out.push_str("/>\n");
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, corners: I, style: &S) -> Drawn {
        self.open("polygon", style.color(), true);
        self.points(corners);
        self.out.push_str("/>\n");
        Ok(())
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        upper_left: BackendCoord,
        lower_right: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Drawn {
        self.open("rect", style.color(), fill);
        if !fill {
            self.stroke_width(style);
        }
        let (width, height) = (lower_right.0 - upper_left.0, lower_right.1 - upper_left.1);
        self.push(format_args!(
            " x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>\n",
            tenths(upper_left.0),
            tenths(upper_left.1),
            tenths(width.max(0)),
            tenths(height.max(0)),
        ));
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(&mut self, (x, y): BackendCoord, radius: u32, style: &S, fill: bool) -> Drawn {
        self.open("circle", style.color(), fill);
        if !fill {
            self.stroke_width(style);
        }
        self.push(format_args!(" cx=\"{}\" cy=\"{}\" r=\"{}\"/>\n", tenths(x), tenths(y), tenths(radius as i32)));
        Ok(())
    }

    fn draw_text<T: BackendTextStyle>(&mut self, text: &str, style: &T, (x, y): BackendCoord) -> Drawn {
        let size = style.size();
        // Distance from the anchor to the baseline, by DejaVu's cap height (.73 em) and descent (.24 em).
        let drop = match style.anchor().v_pos {
            VPos::Top => 0.76 * size,
            VPos::Center => 0.36 * size,
            VPos::Bottom => -0.24 * size,
        };
        let anchor = match style.anchor().h_pos {
            HPos::Left => "",
            HPos::Center => " text-anchor=\"middle\"",
            HPos::Right => " text-anchor=\"end\"",
        };
        self.open("text", style.color(), true);
        self.out.push_str(anchor);
        if matches!(style.style(), FontStyle::Bold) {
            self.out.push_str(" font-weight=\"bold\"");
        }
        let degrees = match style.transform() {
            FontTransform::None => 0,
            FontTransform::Rotate90 => 90,
            FontTransform::Rotate180 => 180,
            FontTransform::Rotate270 => -90,
        };
        if degrees != 0 {
            self.push(format_args!(" transform=\"rotate({degrees} {} {})\"", tenths(x), tenths(y)));
        }
        self.push(format_args!(
            " font-size=\"{}\" x=\"{}\" y=\"{}\">{}</text>\n",
            tenths(size as i32),
            tenths(x),
            tenths(y + drop.round() as i32),
            escape(text)
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_tenths() {
        assert_eq!(tenths(120), "12");
        assert_eq!(tenths(-5), "-0.5");
        assert_eq!(tenths(1234), "123.4");
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("<b a=\"1\">&'\u{1}"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;\u{fffd}");
    }
}
