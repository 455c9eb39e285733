//! The curves and the table in one HTML page that needs nothing besides itself.

use std::fmt::Write;

use super::curve;
use super::report::{COLUMNS, LEGEND, Report};

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:1160px;margin:2em auto;padding:0 1em;\
background:#fff;color:#1f2328}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.15em .9em;text-align:right}th{border-bottom:1px solid #8886}\
tbody tr:first-child td{border-top:1px solid #8886}tbody tr:hover{background:#8882}\
.scroll{overflow-x:auto}svg{width:100%;height:auto}.small{font-size:13px;opacity:.8}\
@media(prefers-color-scheme:dark){body{background:#14171b;color:#e3e6ea}}";

/// The page.
pub fn page(report: &Report) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>mote bench idle</title><style>{STYLE}</style></head><body>\n\
         <h1>How soon a halted guest answers</h1>\n<p>{}</p>\n{}<ul>\n",
        escape(&report.place()),
        curve::draw(report)
    );
    for verdict in report.verdicts().into_iter().chain(report.caveat()) {
        let _ = writeln!(html, "<li>{}</li>", escape(&verdict));
    }
    html += "</ul>\n<div class=\"scroll\"><table><thead><tr>";
    for column in COLUMNS {
        let _ = write!(html, "<th>{}</th>", escape(column));
    }
    html += "</tr></thead>\n";
    for cells in report.by_think() {
        html += "<tbody>\n";
        for cell in cells {
            let columns = cell
                .columns()
                .map(|text| format!("<td>{}</td>", escape(&text)));
            let _ = writeln!(html, "<tr>{}</tr>", columns.concat());
        }
        html += "</tbody>\n";
    }
    let _ = writeln!(
        html,
        "</table></div>\n<p class=\"small\">{} {} rounds, in each of which all had their turn.</p>\n\
         </body></html>",
        escape(LEGEND),
        report.rounds
    );
    html
}

/// Text as HTML takes it.
fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_page_has_all_figures_and_needs_no_other_file() {
        let mut report = report();
        report.host.cpu = "<script>".to_owned();
        let html = page(&report);
        assert_eq!(html.matches("<tr><td>").count(), 6);
        assert_eq!(html.matches("<svg ").count(), 1);
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script"));
        for word in ["src=", "href=", "url(", "@import"] {
            assert!(!html.contains(word), "{word}");
        }
    }
}
