//! Services whose own paths have a first segment that could be taken for the name of a backend.

/// The end of the host's name, and the first segment of the service's paths. From the vendors' references: Azure OpenAI
/// (`/openai/deployments/…`, `/openai/v1/…`), Azure AI Foundry (`/anthropic/v1/…`, `/models/…`), Groq (`/openai/v1/…`),
/// Fireworks (`/inference/v1/…`), Gemini's uploads (`/upload/v1beta/…`), Bedrock (`/model/ID/invoke`).
const OWN: [(&str, &str); 9] = [
    (".openai.azure.com", "openai"),
    (".cognitiveservices.azure.com", "openai"),
    (".services.ai.azure.com", "openai"),
    (".services.ai.azure.com", "anthropic"),
    (".services.ai.azure.com", "models"),
    ("api.groq.com", "openai"),
    ("api.fireworks.ai", "inference"),
    ("generativelanguage.googleapis.com", "upload"),
    (".amazonaws.com", "model"),
];

/// Returns the first segments of the paths of the service at this host.
pub fn first_segments(host: &str) -> impl Iterator<Item = &'static str> {
    OWN.iter().filter(move |(end, _)| host.ends_with(end)).map(|(_, segment)| *segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_its_host() {
        let of = |host: &str| first_segments(host).collect::<Vec<_>>();
        assert_eq!(of("house.openai.azure.com"), ["openai"]);
        assert_eq!(of("house.services.ai.azure.com"), ["openai", "anthropic", "models"]);
        assert_eq!(of("bedrock-runtime.eu-west-1.amazonaws.com"), ["model"]);
        assert!(of("api.openai.com").is_empty() && of("openai.azure.com.evil").is_empty());
    }
}
