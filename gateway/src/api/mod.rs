//! Routes that describe themselves: what a handler takes and gives is read from its signature, so
//! the OpenAPI document cannot say something else than the code. A route names who may use it where
//! it is added; there is no way to add one without.

mod describe;
mod docs;
mod document;
mod extract;

use std::sync::Arc;

use axum::{
    extract::Request,
    handler::Handler,
    http::Method,
    middleware::{self, Next},
    routing::{MethodFilter, MethodRouter, Router, on},
};

pub(crate) use describe::{Described, Input, Output};
pub(crate) use document::Operation;
pub(crate) use extract::{Asked, Expected, Given, Key, Page, Raw, Reply, Text, parse};
#[cfg(test)]
pub(crate) use extract::{body, query};

use crate::{app::App, auth::Need, guard};

/// What is said of an operation besides what its handler's signature says.
pub(crate) struct Op {
    id: &'static str,
    need: Need,
    about: &'static str,
    statuses: &'static [u16],
}

impl Op {
    /// `id` names it in generated clients; `about` is for people, its first sentence is the summary.
    pub const fn new(id: &'static str, need: Need, about: &'static str) -> Self {
        Self { id, need, about, statuses: &[200] }
    }

    /// The statuses of good answers, if not only 200.
    pub const fn gives(mut self, statuses: &'static [u16]) -> Self {
        self.statuses = statuses;
        self
    }
}

/// What is served, as it is put together.
pub(crate) struct Api {
    app: App,
    router: Router<App>,
    document: document::Document,
}

impl Api {
    /// Nothing yet.
    pub fn new(app: &App) -> Self {
        Self { app: app.clone(), router: Router::new(), document: document::Document::default() }
    }

    /// Adds an operation.
    pub fn on<H, T, D>(&mut self, method: Method, path: &'static str, handler: H, op: Op) -> &mut Self
    where
        H: Handler<T, App> + Described<D>,
        T: 'static,
    {
        let mut operation = Operation::new(op.id, op.need, op.about, op.statuses, path);
        H::describe(&mut operation, self.document.schemas());
        self.document.add(&method, path, operation);
        self.serve(method, path, op.id, handler, op.need)
    }

    /// Adds what is no part of the interface: pages, scripts, the socket.
    pub fn page<H, T>(&mut self, path: &'static str, handler: H, need: Need) -> &mut Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        self.serve(Method::GET, path, path, handler, need)
    }

    /// `GET` of an operation.
    pub fn get<H, T, D>(&mut self, path: &'static str, handler: H, op: Op) -> &mut Self
    where
        H: Handler<T, App> + Described<D>,
        T: 'static,
    {
        self.on(Method::GET, path, handler, op)
    }

    /// `POST` of an operation.
    pub fn post<H, T, D>(&mut self, path: &'static str, handler: H, op: Op) -> &mut Self
    where
        H: Handler<T, App> + Described<D>,
        T: 'static,
    {
        self.on(Method::POST, path, handler, op)
    }

    fn serve<H, T>(&mut self, method: Method, path: &'static str, action: &'static str, handler: H, need: Need) -> &mut Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        let Ok(filter) = MethodFilter::try_from(method) else { return self };
        let app = self.app.clone();
        let admit = move |request: Request, next: Next| {
            let app = app.clone();
            async move { guard::admit(&app, action, need, request, next).await }
        };
        let route: MethodRouter<App> = on(filter, handler).layer(middleware::from_fn(admit));
        self.router = std::mem::take(&mut self.router).route(path, route);
        self
    }

    /// The router, with the document at `/v1/openapi.json` and a page that shows it at `/docs`.
    pub fn finish(mut self) -> Router {
        docs::add(&mut self);
        let document: Arc<str> = self.document.json().into();
        self.router.layer(axum::Extension(docs::Shown(document))).with_state(self.app)
    }
}
