//! Colours that survive their way through plotters, differ without colour, and can be read by those who see contrast badly.

use std::collections::BTreeMap;

use super::*;

#[test]
fn a_paint_survives_its_disguise() {
    let roles = [Role::Ink, Role::Muted, Role::Grid, Role::Paper, Role::Black, Role::Series(11), Role::Stage(3)];
    for (i, role) in roles.into_iter().enumerate() {
        let paint = Paint { role, dash: series_dash(i) };
        let RGBColor(r, g, b) = paint.disguise();
        assert_eq!(Paint::unmask((r, g, b)), paint);
    }
}

#[test]
fn the_first_series_differ_without_colour() {
    let looks = |i| (series_marker(i) as u8, series_dash(i) as u8);
    for i in 0..8 {
        for j in 0..i {
            assert_ne!(looks(i), looks(j), "series {i} and {j}");
        }
    }
}

/// The custom properties of the page, light and dark: its style sheet's own, then those of the series.
fn themes() -> [BTreeMap<String, String>; 2] {
    let sheet = format!("{}{}", include_str!("../templates/report.css"), chart_css(1, 0));
    let (mut light, mut dark) = (BTreeMap::new(), BTreeMap::new());
    for (at, _) in sheet.match_indices(":root") {
        let block = sheet[at..].split(['{', '}']).nth(1).expect("a block");
        // Dark values stand inside a media query.
        let before = sheet[..at].trim_end();
        let theme = if before.ends_with('{') { &mut dark } else { &mut light };
        for property in block.split(';') {
            if let Some((name, value)) = property.split_once(':').filter(|(name, _)| name.trim().starts_with("--")) {
                theme.insert(name.trim().to_string(), value.trim().to_string());
            }
        }
    }
    assert_eq!(light.keys().collect::<Vec<_>>(), dark.keys().collect::<Vec<_>>(), "both themes name the same colours");
    assert!(light.len() >= 10 + SERIES_LIGHT.len(), "{light:?}");
    [light, dark]
}

/// Relative luminance, by WCAG 2.2.
fn luminance(colour: &str) -> f64 {
    let channel = |at: usize| {
        let value = u8::from_str_radix(&colour[at..at + 2], 16).unwrap_or_else(|_| panic!("{colour} is no #rrggbb"));
        let share = f64::from(value) / 255.0;
        if share <= 0.04045 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
}

fn contrast(a: &str, b: &str) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn contrast_is_that_of_wcag() {
    assert!((contrast("#000000", "#ffffff") - 21.0).abs() < 1e-9);
    assert!((contrast("#777777", "#ffffff") - 4.478).abs() < 1e-3);
}

#[test]
fn text_and_charts_stand_out_from_both_papers() {
    const TEXT: f64 = 4.5;
    const GRAPHICS: f64 = 3.0;
    let mut wanted: Vec<(String, &str, f64)> = Vec::new();
    for paper in ["--paper", "--card", "--wash"] {
        for ink in ["--ink", "--muted", "--accent"] {
            wanted.push((ink.to_string(), paper, TEXT));
        }
    }
    wanted.push(("--warn".into(), "--warn-wash", TEXT));
    // The chosen toggle is written in paper on the accent.
    wanted.push(("--paper".into(), "--accent", TEXT));
    wanted.extend((0..SERIES_LIGHT.len()).map(|i| (format!("--c{i}"), "--card", GRAPHICS)));
    // Swatches stand on the page itself.
    wanted.extend((0..SERIES_LIGHT.len()).map(|i| (format!("--c{i}"), "--paper", GRAPHICS)));
    for (name, theme) in ["light", "dark"].into_iter().zip(themes()) {
        for (front, back, least) in &wanted {
            let found = contrast(&theme[front], &theme[*back]);
            assert!(found >= *least, "{name}: {front} on {back} is {found:.2} to 1, not {least}");
        }
        for i in 0..STAGES.len() {
            let stage = Role::stage(i).colour();
            let found = contrast(stage, &theme["--card"]);
            assert!(found >= GRAPHICS, "{name}: stage {i} on the card is {found:.2} to 1");
            let text = contrast(Role::Black.colour(), stage);
            assert!(text >= TEXT, "text on stage {i} is {text:.2} to 1");
        }
    }
    // Pictures are drawn on white.
    for role in (0..SERIES_LIGHT.len()).map(Role::series).chain([Role::Ink, Role::Muted]) {
        assert!(contrast(role.colour(), Role::Paper.colour()) >= GRAPHICS, "{role:?}");
    }
}
