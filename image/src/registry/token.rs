//! From a challenge to the value of `Authorization` (the distribution project's token specification, and
//! its OAuth2 extension for identity tokens).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::Uri;

use super::PullError;
use super::address::{escaped, join};
use super::challenge::Challenge;
use super::credentials::Credential;
use super::error::RegistryError;
use super::repository::{Asked, Repository, shown, without_query};

/// The longest answer of a token server, and so the longest token.
const MAX_TOKEN_BYTES: u64 = 1 << 16;

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// What to send along, now that `url` asked for proof.
pub(super) fn prove(
    repository: &Repository,
    url: &str,
    challenge: &Challenge,
) -> Result<String, PullError> {
    let (registry, path) = (&repository.registry, &repository.path);
    let credential = repository.access.credentials.find(registry, path)?;
    match (challenge, credential) {
        (Challenge::Bearer { realm, service, scope }, credential) => {
            let scope = scope.clone().unwrap_or_else(|| format!("repository:{path}:pull"));
            let service = service.as_deref();
            let token = buy(repository, url, realm, service, &scope, credential.as_ref())?;
            Ok(format!("Bearer {token}"))
        }
        (Challenge::Basic, Some(Credential::Password { name, password })) => {
            Ok(basic(&name, &password))
        }
        (Challenge::Basic, _) => Err(RegistryError::Refused {
            url: url.to_owned(),
            status: 401,
            advice: "it wants a name and a password, log in with `podman login` or `docker login`",
            says: String::new(),
        }
        .into()),
    }
}

fn buy(
    repository: &Repository,
    url: &str,
    realm: &str,
    service: Option<&str>,
    scope: &str,
    credential: Option<&Credential>,
) -> Result<String, PullError> {
    let registry: Uri = url.parse().map_err(|_| RegistryError::NoToken { url: url.to_owned() })?;
    let unreadable = || RegistryError::Challenge {
        url: url.to_owned(),
        header: shown(&format!("realm={realm}")),
    };
    let realm = join(&registry, realm).ok_or_else(unreadable)?;
    repository.may_go_to(&realm)?;
    let mut words = vec![format!("scope={}", escaped(scope))];
    words.extend(service.map(|service| format!("service={}", escaped(service))));
    let at = without_query(&realm);
    let answered = match credential {
        Some(Credential::Identity { token }) => {
            words.push("grant_type=refresh_token".to_owned());
            words.push("client_id=microvm".to_owned());
            words.push(format!("refresh_token={}", escaped(token)));
            repository.post(&realm, &words.join("&"))?
        }
        other => {
            let joint = if realm.query().is_some() { '&' } else { '?' };
            let whole = format!("{realm}{joint}{}", words.join("&"));
            let whole: Uri = whole.parse().map_err(|_| unreadable())?;
            let proof = other.map(|credential| match credential {
                Credential::Password { name, password } => basic(name, password),
                Credential::Identity { token } => format!("Bearer {token}"),
            });
            repository.request(&whole, Asked::default(), proof.as_deref())?
        }
    };
    match answered.status().as_u16() {
        200 => {}
        status => return Err(repository.refusal(at, status, answered).into()),
    }
    let json = repository.whole(&at, answered, MAX_TOKEN_BYTES)?;
    let answer: Answer = serde_json::from_slice(&json)
        .map_err(|source| RegistryError::Json { url: at.clone(), source })?;
    let token = answer.token.or(answer.access_token).unwrap_or_default();
    // It becomes part of a header.
    match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(token),
        false => Err(RegistryError::NoToken { url: at }.into()),
    }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}
