//! SVG as text: boxes, lines and words, each with a class of the style sheet.

use std::fmt::Write;

/// How wide a character of the fixed-width font is, in its size.
const ADVANCE: f64 = 0.605;

/// The style sheet: restrained, and one colour for what matters.
const STYLE: &str = "
text{font-family:'DejaVu Sans','Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;fill:#1f2937}
.code{font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace;font-size:11px}
.title{font-size:18px;font-weight:600}
.head{font-size:13px;font-weight:600}
.column{font-size:11px;font-weight:600;fill:#6b7280;letter-spacing:1px}
.quiet{fill:#6b7280}
.bad{fill:#b91c1c}
.chosen{fill:#1d4ed8;font-weight:600}
.page{fill:#f8fafc}
.box{fill:#ffffff;stroke:#cbd5e1}
.group{fill:#f1f5f9;stroke:#cbd5e1}
.lit{fill:#dbeafe}
.litbox{fill:#ffffff;stroke:#1d4ed8;stroke-width:2}
.rule{stroke:#e2e8f0}
.wire{fill:none;stroke:#cbd5e1}
.path{fill:none;stroke:#1d4ed8;stroke-width:2.5}
.end{fill:#1d4ed8}
.refused{fill:none;stroke:#b91c1c;stroke-width:2.5}
";

/// A drawing while it grows.
#[derive(Debug, Default)]
pub(super) struct Svg {
    below: String,
    above: String,
}

/// A rectangle of the page, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    pub(super) fn right(self) -> f64 {
        self.x + self.width
    }

    pub(super) fn bottom(self) -> f64 {
        self.y + self.height
    }
}

// Writing to a String cannot fail, here and below.
impl Svg {
    pub(super) fn area(&mut self, class: &str, area: Area, corner: f64) {
        let Area { x, y, width, height } = area;
        let _ = writeln!(
            self.below,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="{corner}"/>"#
        );
    }

    /// A text that is cut to a width; the whole of it stands in its title.
    pub(super) fn text(&mut self, class: &str, (x, y): (f64, f64), width: f64, text: &str) {
        let size = if class.contains("code") {
            11.0
        } else if class.contains("title") {
            18.0
        } else {
            12.5
        };
        let shown = cut(text, width / (size * ADVANCE));
        let title = if shown == text { String::new() } else { format!("<title>{}</title>", escape(text)) };
        let _ = writeln!(
            self.below,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" xml:space="preserve">{}{title}</text>"#,
            escape(&shown)
        );
    }

    /// A curve from left to right, on top of everything or below it.
    pub(super) fn curve(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let bend = ((to.0 - from.0) / 2.0).max(14.0);
        let _ = writeln!(
            self.above,
            r#"<path class="{class}" d="M{:.1},{:.1} C{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}"/>"#,
            from.0,
            from.1,
            from.0 + bend,
            from.1,
            to.0 - bend,
            to.1,
            to.0,
            to.1
        );
    }

    /// Where a path ends.
    pub(super) fn dot(&mut self, (x, y): (f64, f64)) {
        let _ = writeln!(self.above, r#"<circle class="end" cx="{x:.1}" cy="{y:.1}" r="4"/>"#);
    }

    /// The whole document.
    pub(super) fn finish(self, title: &str, width: f64, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"100%\" height=\"100%\"/>\n{}{}</svg>\n",
            escape(title),
            self.below,
            self.above
        )
    }
}

/// At most so many characters.
fn cut(text: &str, most: f64) -> String {
    // A width of a page: far below what the type holds.
    let most = most.max(1.0) as usize;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Text that XML takes: what it has no place for is shown as such.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}
