// An application with an unmodified provider, driven by JSON lines: MODE HOST PORT SELECTOR; MODE: rpc, in-process or rest.
// In its environment: CA, the file with the CA of a server with TLS.
use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, stdin};

use open_feature::provider::{FeatureProvider, ResolutionDetails};
use open_feature::{EvaluationContext, EvaluationError, EvaluationErrorCode, EvaluationReason, FlagMetadataValue, StructValue, Value};
use open_feature_flagd::{CacheSettings, FlagdOptions, FlagdProvider, ResolverType};
use serde_json::{Value as Json, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let defaults = FlagdOptions::default();
    let (resolver_type, cache_settings) = match arguments[1].as_str() {
        "rpc" => (ResolverType::Rpc, defaults.cache_settings.clone()),
        "rest" => (ResolverType::Rest, defaults.cache_settings.clone()),
        _ => (ResolverType::InProcess, None::<CacheSettings>), // what the provider's own default is for this mode
    };
    let (host, port) = (arguments[2].clone(), arguments[3].parse()?);
    let selector = Some(arguments[4].clone()).filter(|selector| !selector.is_empty());
    let cert_path = std::env::var("CA").ok().filter(|path| !path.is_empty());
    let tls = cert_path.is_some();
    let options = FlagdOptions { host, port, selector, resolver_type, cache_settings, tls, cert_path, ..defaults };
    let provider = match FlagdProvider::new(options).await {
        Ok(provider) => provider,
        Err(error) => return Ok(println!("{}", json!({"failed": error.to_string()}))),
    };
    for line in stdin().lock().lines() {
        println!("{}", answer(&provider, &serde_json::from_str(&line?)?).await);
    }
    Ok(())
}

async fn answer(provider: &FlagdProvider, asked: &Json) -> Json {
    let key = asked["key"].as_str().unwrap_or_default();
    let context = context(&asked["context"]);
    let found = match asked["kind"].as_str() {
        Some("boolean") => plain(provider.resolve_bool_value(key, &context).await, Json::from),
        Some("string") => plain(provider.resolve_string_value(key, &context).await, Json::from),
        Some("integer") => plain(provider.resolve_int_value(key, &context).await, Json::from),
        Some("float") => plain(provider.resolve_float_value(key, &context).await, Json::from),
        _ => plain(provider.resolve_struct_value(key, &context).await, object),
    };
    let mut line = found.unwrap_or_else(|error| {
        let code = match error.code {
            EvaluationErrorCode::General(_) => "GENERAL".to_string(),
            code => code.to_string(),
        };
        // The SDK takes no default: where there is no value the application takes its own.
        json!({"value": asked["default"], "reason": "ERROR", "errorCode": code})
    });
    line["id"] = asked["id"].clone();
    line
}

fn context(asked: &Json) -> EvaluationContext {
    let mut context = EvaluationContext::default();
    for (name, value) in asked.as_object().into_iter().flatten() {
        match value {
            Json::String(text) if name == "targetingKey" => context.targeting_key = Some(text.clone()),
            Json::String(text) => context.add_custom_field(name, text.clone()),
            Json::Bool(value) => context.add_custom_field(name, *value),
            Json::Number(number) if number.is_i64() => context.add_custom_field(name, number.as_i64().unwrap_or_default()),
            other => context.add_custom_field(name, other.as_f64().unwrap_or_default()),
        }
    }
    context
}

fn plain<T>(found: Result<ResolutionDetails<T>, EvaluationError>, json: impl Fn(T) -> Json) -> Result<Json, EvaluationError> {
    let found = found?;
    let metadata: HashMap<String, Json> = found.flag_metadata.into_iter().flat_map(|all| all.values).map(metadatum).collect();
    let reason = found.reason.as_ref().map(EvaluationReason::to_string);
    Ok(json!({"value": json(found.value), "reason": reason, "variant": found.variant, "metadata": metadata}))
}

fn metadatum((name, value): (String, FlagMetadataValue)) -> (String, Json) {
    let value = match value {
        FlagMetadataValue::Bool(value) => Json::from(value),
        FlagMetadataValue::Int(value) => Json::from(value),
        FlagMetadataValue::Float(value) => Json::from(value),
        FlagMetadataValue::String(value) => Json::from(value),
    };
    (name, value)
}

fn object(value: StructValue) -> Json {
    value.fields.into_iter().map(|(name, field)| (name, of(field))).collect::<serde_json::Map<_, _>>().into()
}

fn of(value: Value) -> Json {
    match value {
        Value::Bool(value) => Json::from(value),
        Value::Int(value) => Json::from(value),
        Value::Float(value) => Json::from(value),
        Value::String(value) => Json::from(value),
        Value::Array(values) => values.into_iter().map(of).collect(),
        Value::Struct(value) => object(value),
    }
}
