//! Answers, in the forms that this API has.

use serde::Serialize;

use super::fault::Fault;
use super::http::Answer;

const JSON: &str = "application/json";
/// Of the Prometheus text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Answer {
    /// It is done.
    pub fn done() -> Self {
        Answer {
            status: 204,
            media_type: JSON,
            body: Vec::new(),
        }
    }

    /// What was asked for.
    pub fn of(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Answer {
                status: 200,
                media_type: JSON,
                body,
            },
            Err(error) => Answer::message(500, &error.to_string()),
        }
    }

    /// Metrics.
    pub fn text(text: String) -> Self {
        Answer {
            status: 200,
            media_type: TEXT,
            body: text.into_bytes(),
        }
    }

    /// It isn't done.
    pub fn fault(fault: &Fault) -> Self {
        Answer::message(400, &fault.to_string())
    }

    fn message(status: u16, text: &str) -> Self {
        Answer {
            status,
            media_type: JSON,
            body: serde_json::json!({ "fault_message": text })
                .to_string()
                .into_bytes(),
        }
    }
}

impl From<Result<Answer, Fault>> for Answer {
    fn from(result: Result<Answer, Fault>) -> Self {
        result.unwrap_or_else(|fault| Answer::fault(&fault))
    }
}
