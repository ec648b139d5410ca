//! Receipt and verification.

use serde_json::json;

use super::{Operation, Schemas, answer, task_id, text, with};
use crate::protocol::http::{Receipt, VerifyLine};

pub fn receipt(schemas: &mut Schemas) -> Operation {
    let receipt = answer("The receipt; as CSV only its devices.", &schemas.of::<Receipt>());
    Operation {
        id: "showReceipt",
        method: "get",
        path: "/tasks/{taskId}/receipt",
        summary: "What a task has published: rows, offsets and a checksum for each device",
        parameters: vec![task_id()],
        body: None,
        answers: vec![(200, with(receipt, "/content", "text/csv", text()))],
        errors: vec![404],
    }
}

pub fn verify(schemas: &mut Schemas) -> Operation {
    let line = schemas.of::<VerifyLine>();
    Operation {
        id: "verifyTask",
        method: "post",
        path: "/tasks/{taskId}/verify",
        summary: "Reads the topic back and compares it with the receipt",
        parameters: vec![task_id()],
        body: None,
        answers: vec![(
            200,
            json!({
                "description": "Lines of JSON: progress, then a verdict for each device, then a summary. \
                    An answer without a summary or an error at its end is incomplete.",
                "content": {"application/x-ndjson": {"schema": line}},
            }),
        )],
        errors: vec![404, 429],
    }
}
