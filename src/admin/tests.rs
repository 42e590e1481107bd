use std::collections::BTreeSet;

use serde_json::Value;
use utoipa::OpenApi as _;

use super::description::Description;
use super::{ask, table};
use crate::mailbox::{Command, Mailbox};

fn description() -> Value {
    serde_json::to_value(Description::openapi()).unwrap()
}

#[test]
fn every_route_is_described() {
    let description = description();
    let described: BTreeSet<&str> =
        description["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let served: BTreeSet<&str> = table().iter().map(|(path, _)| *path).collect();
    assert_eq!(described, served);
}

#[test]
fn the_description_is_whole() {
    let description = description();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"), "{description}");
    assert_eq!(description["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let mut names = BTreeSet::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(names.insert(operation["operationId"].to_string()), "{what}: ambiguous");
            assert!(operation["summary"].is_string(), "{what}");
            assert!(!operation["responses"].as_object().unwrap().is_empty(), "{what}");
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for parameter in &parameters {
                assert!(parameter["description"].is_string(), "{what}: {parameter}");
            }
            let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
            assert_eq!(in_path, path.matches('{').count(), "{what}");
        }
    }
    let text = description.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(description["components"]["schemas"][name].is_object(), "{name} is missing");
    }
}

#[tokio::test]
async fn a_shard_that_does_not_answer_is_named() {
    let [(silent, _inbox), (ended, inbox)] = [(); 2].map(|()| Mailbox::new().unwrap());
    drop(inbox);
    let mailboxes = [silent, ended];
    let detail = async |shard| {
        let asked = ask(&mailboxes, shard, |answer| Command::Session(1, answer)).await;
        let problem = serde_json::to_value(asked.unwrap_err()).unwrap();
        assert_eq!(problem["status"], 503);
        problem["detail"].as_str().unwrap().to_owned()
    };
    assert_eq!(detail(1).await, "shard 1 has ended");
    assert!(detail(0).await.starts_with("shard 0 did not answer within 2 s"));
}
