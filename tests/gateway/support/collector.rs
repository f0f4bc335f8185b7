//! An OpenTelemetry collector: OTLP over gRPC or HTTP; it keeps everything it receives.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::within;

/// What it has received so far.
#[derive(Clone, Default)]
pub struct Received {
    pub spans: Vec<Span>,
    pub logs: Vec<LogRecord>,
    pub metrics: Vec<Metric>,
    /// The attributes of the last resource.
    pub resource: Value,
    /// The number of messages, including refused ones.
    pub messages: usize,
    /// The `authorization` of the last message.
    pub authorization: Option<String>,
}

/// A running collector.
pub struct Collector {
    address: SocketAddr,
    inbox: Service,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Service {
    received: Arc<watch::Sender<Received>>,
    behavior: Behavior,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Behavior {
    Accepts,
    /// Accepts each message with a partial success that rejects one item.
    PartialSuccess,
    /// Refuses everything with a retryable status.
    Refuses,
}

impl Collector {
    /// A collector that speaks gRPC.
    pub async fn grpc() -> Self {
        Self::over_grpc(Behavior::Accepts).await
    }

    /// A collector that speaks HTTP.
    pub async fn http() -> Self {
        Self::over_http(Behavior::Accepts).await
    }

    /// A collector that rejects a part of each message (gRPC).
    pub async fn grpc_rejecting_one() -> Self {
        Self::over_grpc(Behavior::PartialSuccess).await
    }

    /// A collector that rejects a part of each message (HTTP).
    pub async fn http_rejecting_one() -> Self {
        Self::over_http(Behavior::PartialSuccess).await
    }

    /// A collector that answers everything with 503 (HTTP).
    pub async fn refusing() -> Self {
        Self::over_http(Behavior::Refuses).await
    }

    async fn over_grpc(behavior: Behavior) -> Self {
        let (listener, address, inbox) = Self::prepare(behavior).await;
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(inbox.clone()))
            .add_service(LogsServiceServer::new(inbox.clone()))
            .add_service(MetricsServiceServer::new(inbox.clone()));
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpIncoming::from(listener)).await.expect("a collector");
        });
        Self { address, inbox, serving }
    }

    async fn over_http(behavior: Behavior) -> Self {
        let (listener, address, inbox) = Self::prepare(behavior).await;
        let (spans, logs, metrics) = (inbox.clone(), inbox.clone(), inbox.clone());
        let app = Router::new()
            .route(
                "/v1/traces",
                post(async move |head: HeaderMap, body: Bytes| spans.over_http(&head, &body, Service::spans)),
            )
            .route(
                "/v1/logs",
                post(async move |head: HeaderMap, body: Bytes| logs.over_http(&head, &body, Service::logs)),
            )
            .route(
                "/v1/metrics",
                post(async move |head: HeaderMap, body: Bytes| {
                    metrics.over_http(&head, &body, Service::metrics)
                }),
            );
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.expect("a collector") });
        Self { address, inbox, serving }
    }

    async fn prepare(behavior: Behavior) -> (TcpListener, SocketAddr, Service) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address, Service { received: Arc::new(watch::Sender::default()), behavior })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has received so far.
    pub fn received(&self) -> Received {
        self.inbox.received.borrow().clone()
    }

    /// Waits until `done` holds; returns what it had received by then.
    pub async fn until(&self, what: &str, done: impl Fn(&Received) -> bool) -> Received {
        let mut changes = self.inbox.received.subscribe();
        let received = within(what, changes.wait_for(|received| done(received))).await;
        received.expect("it lives as long as the collector").clone()
    }

    /// Waits for a span for which `wanted` holds; the second argument is the span's attributes.
    pub async fn span(&self, what: &str, wanted: impl Fn(&Span, &Value) -> bool) -> Span {
        let find = |received: &Received| {
            received.spans.iter().find(|span| wanted(span, &attributes(&span.attributes))).cloned()
        };
        find(&self.until(what, |received| find(received).is_some()).await).expect("just found")
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Service {
    fn take(&self, edit: impl FnOnce(&mut Received)) {
        self.received.send_modify(|received| {
            received.messages += 1;
            if self.behavior != Behavior::Refuses {
                edit(received);
            }
        });
    }

    fn set_authorization(&self, authorization: Option<&str>) {
        self.received.send_modify(|received| received.authorization = authorization.map(str::to_owned));
    }

    /// The partial success in its answer, if it rejects a part.
    fn part<P>(&self, refused: P) -> Option<P> {
        (self.behavior == Behavior::PartialSuccess).then_some(refused)
    }

    fn over_http<M: Message + Default, A: Message>(
        &self,
        head: &HeaderMap,
        body: &[u8],
        take: fn(&Self, M) -> A,
    ) -> impl IntoResponse + use<M, A> {
        self.set_authorization(head.get(AUTHORIZATION).and_then(|value| value.to_str().ok()));
        let answer = take(self, M::decode(body).expect("a message of OTLP"));
        let refuses = self.behavior == Behavior::Refuses;
        let status = if refuses { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (status, [(CONTENT_TYPE, "application/x-protobuf")], answer.encode_to_vec())
    }

    fn over_grpc<M, A>(&self, request: Request<M>, take: fn(&Self, M) -> A) -> Response<A> {
        self.set_authorization(request.metadata().get("authorization").and_then(|value| value.to_str().ok()));
        Response::new(take(self, request.into_inner()))
    }

    fn spans(&self, message: ExportTraceServiceRequest) -> ExportTraceServiceResponse {
        self.take(|received| {
            for part in message.resource_spans {
                received.resource = attributes(&part.resource.expect("a resource").attributes);
                received.spans.extend(part.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        });
        let refused = ExportTracePartialSuccess { rejected_spans: 1, error_message: "too old".to_owned() };
        ExportTraceServiceResponse { partial_success: self.part(refused) }
    }

    fn logs(&self, message: ExportLogsServiceRequest) -> ExportLogsServiceResponse {
        self.take(|received| {
            for part in message.resource_logs {
                received.resource = attributes(&part.resource.expect("a resource").attributes);
                received.logs.extend(part.scope_logs.into_iter().flat_map(|scope| scope.log_records));
            }
        });
        let refused =
            ExportLogsPartialSuccess { rejected_log_records: 1, error_message: "too old".to_owned() };
        ExportLogsServiceResponse { partial_success: self.part(refused) }
    }

    fn metrics(&self, message: ExportMetricsServiceRequest) -> ExportMetricsServiceResponse {
        self.take(|received| {
            let scopes = message.resource_metrics.into_iter().flat_map(|part| part.scope_metrics);
            received.metrics = scopes.flat_map(|scope| scope.metrics).collect();
        });
        let refused =
            ExportMetricsPartialSuccess { rejected_data_points: 1, error_message: "too old".to_owned() };
        ExportMetricsServiceResponse { partial_success: self.part(refused) }
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(self.over_grpc(request, Self::spans))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        Ok(self.over_grpc(request, Self::logs))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(self.over_grpc(request, Self::metrics))
    }
}

/// Attributes as one JSON object.
pub fn attributes(pairs: &[KeyValue]) -> Value {
    let pair = |pair: &KeyValue| (pair.key.clone(), pair.value.as_ref().map_or(Value::Null, plain));
    Value::Object(pairs.iter().map(pair).collect::<Map<_, _>>())
}

/// An OTLP value as JSON.
pub fn plain(value: &AnyValue) -> Value {
    match &value.value {
        None => Value::Null,
        Some(any_value::Value::StringValue(text)) => json!(text),
        Some(any_value::Value::BoolValue(flag)) => json!(flag),
        Some(any_value::Value::IntValue(number)) => json!(number),
        Some(any_value::Value::DoubleValue(number)) => json!(number),
        Some(any_value::Value::ArrayValue(list)) => list.values.iter().map(plain).collect(),
        Some(any_value::Value::KvlistValue(map)) => attributes(&map.values),
        Some(other) => panic!("unexpected value: {other:?}"),
    }
}
