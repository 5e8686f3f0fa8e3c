//! `http`: one HTTP request.
//!
//! Parameters or inputs: `url` (http or https); `method` (GET by default, POST, PUT, DELETE, HEAD);
//! `path` (a segment or an array of segments to append) and `query` (name to value), both encoded;
//! `headers` (name to value); `body` (JSON, not with GET and HEAD); `timeout` (a duration; otherwise
//! the node's own bounds it); `extract` (output name to JSON pointer into the body); `max_bytes` of the
//! answer (204800 by default, 8388608 at most); `idempotent`
//! (bool: sending it twice is as good as once, since the receiver honours the `Idempotency-Key` header;
//! by default true for PUT and DELETE, which are so by definition, and false for POST). In `path`, `query` and `headers` a value
//! `{"input": "name"}` stands for the node's input of that name.
//!
//! For risk limits: `order` says that the request is an order and what it takes at worst, `fill` which outputs say what it came
//! to, `mark` which output is the price of a symbol (`http_risk`).
//!
//! Outputs: `status` (number), `body` (JSON, text, or `null` if empty), and what `extract` names.
//!
//! Errors: `Connection` and `Timeout` are worth another attempt. A status other than 2xx is
//! `HttpStatus`: worth another attempt if it is 408, 429 or 5xx and the request was GET or HEAD or is
//! `idempotent`, since a repeated request could otherwise act twice. `MissingOutput`: a pointer of
//! `extract` points at nothing. `OutputTooLarge`: the body has more than `max_bytes`.
//!
//! Everything but GET and HEAD counts as a side effect: it passes the control flag, and its intent is
//! stored before it. A 4xx status and a connection that did not come about say that nothing was done;
//! 408, 5xx, a time-out and a connection that broke do not. After these an `idempotent` request is
//! repeated with the same key, and any other one ends as `node_unknown`.

use async_trait::async_trait;
use haltline_common::types::{
    catalog::NodeType,
    risk::{Noted, Order},
};
use serde_json::json;

use super::{answer::Answer, client, http_request::HttpRequest, http_risk};
use crate::{
    context::{Context, NodeError, Outputs},
    registry::Node,
};

/// The type.
pub struct Http;

#[async_trait]
impl Node for Http {
    fn describe(&self) -> NodeType {
        super::described("http")
    }

    async fn run(&self, ctx: &Context) -> Result<Outputs, NodeError> {
        let request = HttpRequest::read(ctx)?;
        if request.acts { ctx.effect(|| exchange(request)).await } else { exchange(request).await }
    }

    fn order(&self, ctx: &Context) -> Result<Option<Order>, NodeError> {
        http_risk::order(ctx)
    }

    fn noted(&self, ctx: &Context, outputs: &Outputs, venue: &str) -> Vec<Noted> {
        http_risk::noted(ctx, outputs, venue)
    }

    fn idempotent(&self, ctx: &Context) -> bool {
        HttpRequest::read(ctx).is_ok_and(|request| request.repeatable)
    }
}

async fn exchange(request: HttpRequest) -> Result<Outputs, NodeError> {
    let target = format!("{} {}", request.method, client::shown(&request.url));
    let bytes_max = request.bytes_max;
    let mut builder = client::client()?.request(request.method, request.url).headers(request.headers);
    if let Some(body) = request.body {
        builder = builder.body(body);
    }
    if let Some(timeout) = request.timeout {
        builder = builder.timeout(timeout);
    }
    let answer = Answer::of(builder, &target, bytes_max).await?;
    if !answer.status.is_success() {
        let message = answer.refusal(&target);
        let again = request.repeatable && answer.may_pass_later();
        let error = if again { NodeError::retryable("HttpStatus", message) } else { NodeError::fatal("HttpStatus", message) };
        return Err(if answer.is_refusal() { error.not_done() } else { error });
    }
    let body = answer.body(!request.extract.is_empty()).map_err(NodeError::done)?;
    let mut outputs = Outputs::new();
    for (name, pointer) in request.extract {
        let Some(value) = body.pointer(&pointer) else {
            return Err(NodeError::fatal("MissingOutput", format!("{target}: the answer has nothing at `{pointer}` for `{name}`")).done());
        };
        outputs.insert(name, value.clone());
    }
    outputs.insert("status".into(), json!(answer.status.as_u16()));
    outputs.insert("body".into(), body);
    Ok(outputs)
}

#[cfg(test)]
mod tests;
