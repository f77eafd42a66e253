//! One repository of one registry, by HTTP (OCI distribution specification, "Pull").
//!
//! Redirects are followed here and not by the HTTP library, because what proves who we are goes to the
//! registry alone, and what was encrypted stays so.

use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ureq::http::{Response, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body, Proxy, Timeout};

use super::address::{host, is_loopback, join, same_origin};
use super::challenge::Challenge;
use super::error::RegistryError;
use super::proxies::Proxies;
use super::{Access, PullError, token};

/// docker.io is a name; what answers is called otherwise.
const DOCKER_HOST: &str = "registry-1.docker.io";

const MAX_REDIRECTS: usize = 5;

/// A registry's own words about an error, as far as they are read and shown.
const MAX_WORDS_BYTES: u64 = 1 << 16;
const MAX_WORDS_SHOWN: usize = 200;

const CONNECT: Duration = Duration::from_secs(30);

pub(super) struct Repository {
    /// `localhost:5000`, `docker.io`.
    pub(super) registry: String,
    /// `library/demo`.
    pub(super) path: String,
    pub(super) access: Access,
    agent: Agent,
    proxies: Proxies,
    /// `https://host:port`, once it is known.
    base: OnceLock<String>,
    /// The value of `Authorization`, once one was asked for.
    proof: Mutex<Option<String>>,
    /// A certificate has nobody to be checked against.
    no_authorities: bool,
}

/// What a request asks for besides its address.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked<'a> {
    pub(super) accept: Option<&'a str>,
    /// The first byte that is wanted.
    pub(super) from: u64,
    /// The answer may take as long as it likes, if only it goes on.
    pub(super) long: bool,
}

impl Repository {
    pub(super) fn new(registry: &str, path: &str, access: &Access) -> Result<Self, PullError> {
        let authorities = authorities();
        let no_authorities = authorities.is_empty() && access.tls_verify;
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::Specific(Arc::new(authorities)))
            .disable_verification(!access.tls_verify)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .user_agent(concat!("microvm/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(access.patience.idle))
            .timeout_per_write(Some(access.patience.idle))
            .timeout_recv_response(Some(access.patience.idle))
            .build();
        Ok(Self {
            registry: registry.to_owned(),
            path: path.to_owned(),
            access: access.clone(),
            agent: config.into(),
            proxies: Proxies::from_environment()?,
            base: OnceLock::new(),
            proof: Mutex::new(None),
            no_authorities,
        })
    }

    /// Ends every request that is under way, in whatever thread.
    pub(super) fn hang_up(&self) {
        self.agent.clone().shutdown();
    }

    /// Gets what is at `/v2/PATH/what`, with proof of who we are if that is asked for. The status is 200
    /// or 206.
    pub(super) fn get(
        &self,
        what: &str,
        asked: Asked<'_>,
    ) -> Result<(String, Response<Body>), PullError> {
        let url = format!("{}/v2/{}/{what}", self.base()?, self.path);
        let mut response = self.follow(&url, asked)?;
        if response.status() == 401 {
            let proof = self.prove(&url, &response)?;
            let mut kept = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(proof);
            drop(kept);
            response = self.follow(&url, asked)?;
        }
        match response.status().as_u16() {
            200 | 206 => Ok((url, response)),
            status => Err(self.refusal(url, status, response).into()),
        }
    }

    /// The beginning of all addresses. A registry on this machine, or one that need not be encrypted, is
    /// asked in which way it speaks.
    fn base(&self) -> Result<&str, RegistryError> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let name = if self.registry == "docker.io" { DOCKER_HOST } else { &self.registry };
        let schemes: &[&str] = match (is_loopback(host(name)), self.access.tls_verify) {
            (true, _) => &["http", "https"],
            (false, false) => &["https", "http"],
            (false, true) => &["https"],
        };
        let mut refused = None;
        for scheme in schemes {
            let base = format!("{scheme}://{name}");
            let asked = schemes.len() == 1 || {
                let url = format!("{base}/v2/");
                match self.follow(&url, Asked::default()) {
                    // A server that speaks TLS says 400 to one who does not, if it says anything.
                    Ok(response) => response.status() != 400,
                    Err(error) => {
                        refused.get_or_insert(error);
                        false
                    }
                }
            };
            if asked {
                return Ok(self.base.get_or_init(|| base));
            }
        }
        Err(refused.unwrap_or_else(|| RegistryError::Status {
            url: format!("{}://{name}/v2/", schemes[0]),
            status: 400,
            says: String::new(),
        }))
    }

    fn follow(&self, url: &str, asked: Asked<'_>) -> Result<Response<Body>, RegistryError> {
        let bad = |to: &str| RegistryError::Redirect { url: url.to_owned(), to: shown(to) };
        let first: Uri = url.parse().map_err(|_| bad(url))?;
        let mut at = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let proof = self.proof.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let proof = proof.filter(|_| same_origin(&first, &at));
            let response = self.request(&at, asked, proof.as_deref())?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|location| location.to_str().ok()).unwrap_or_default();
            let next = join(&at, location).ok_or_else(|| bad(location))?;
            self.may_go_to(&next)?;
            at = next;
        }
        Err(RegistryError::Circle { url: url.to_owned(), most: MAX_REDIRECTS })
    }

    /// Whether words for `uri` are encrypted, stay on this machine, or need not be secret.
    pub(super) fn may_go_to(&self, uri: &Uri) -> Result<(), RegistryError> {
        let inside = is_loopback(uri.host().unwrap_or_default());
        match uri.scheme_str() == Some("https") || inside || !self.access.tls_verify {
            true => Ok(()),
            false => Err(RegistryError::Plain { url: without_query(uri) }),
        }
    }

    pub(super) fn request(
        &self,
        uri: &Uri,
        asked: Asked<'_>,
        proof: Option<&str>,
    ) -> Result<Response<Body>, RegistryError> {
        let proxy = self.way_to(uri)?;
        let mut request = self.agent.get(uri);
        if let Some(accept) = asked.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if let Some(proof) = proof {
            request = request.header(header::AUTHORIZATION, proof);
        }
        if asked.from > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", asked.from));
        }
        let idle = self.access.patience.idle;
        let whole = if asked.long { None } else { Some(idle) };
        let mut config = request.config().timeout_recv_body(whole);
        if let Some(proxy) = proxy {
            config = config.proxy(Some(proxy.clone()));
        }
        config.build().call().map_err(|error| self.broken(uri, error))
    }

    /// Sends `form` to `uri`, without proof of who we are: the form is one.
    pub(super) fn post(&self, uri: &Uri, form: &str) -> Result<Response<Body>, RegistryError> {
        let proxy = self.way_to(uri)?;
        let request = self.agent.post(uri);
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let mut config = request.config().timeout_recv_body(Some(self.access.patience.idle));
        if let Some(proxy) = proxy {
            config = config.proxy(Some(proxy.clone()));
        }
        config.build().send(form).map_err(|error| self.broken(uri, error))
    }

    /// The proxy on the way, if any; an error if whoever answers there cannot be told from another.
    fn way_to(&self, uri: &Uri) -> Result<Option<&Proxy>, RegistryError> {
        let encrypted = uri.scheme_str() == Some("https");
        match encrypted && self.no_authorities {
            true => Err(RegistryError::NoAuthorities { url: without_query(uri) }),
            false => Ok(self.proxies.of(encrypted, uri.host().unwrap_or_default())),
        }
    }

    fn prove(&self, url: &str, response: &Response<Body>) -> Result<String, PullError> {
        let headers = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let headers: Vec<&str> = headers.filter_map(|value| value.to_str().ok()).collect();
        let Some(challenge) = Challenge::choose(headers.iter().copied()) else {
            let (url, header) = (url.to_owned(), shown(&headers.join(", ")));
            return Err(RegistryError::Challenge { url, header }.into());
        };
        token::prove(self, url, &challenge)
    }

    /// What a status says, in the registry's words where there are any.
    pub(super) fn refusal(
        &self,
        url: String,
        status: u16,
        response: Response<Body>,
    ) -> RegistryError {
        let says = words(response);
        match status {
            401 | 403 => {
                let advice =
                    "it wants to know who asks, log in with `podman login` or `docker login`";
                RegistryError::Refused { url, status, advice, says }
            }
            _ => RegistryError::Status { url, status, says },
        }
    }

    /// All of an answer of at most `most` bytes.
    pub(super) fn whole(
        &self,
        url: &str,
        response: Response<Body>,
        most: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let reader = response.into_body().into_reader();
        let read = reader.take(most + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.broken_at(url, error.into()))?;
        match bytes.len() as u64 > most {
            true => Err(RegistryError::TooLong { url: url.to_owned(), most }),
            false => Ok(bytes),
        }
    }

    fn broken(&self, uri: &Uri, error: ureq::Error) -> RegistryError {
        self.broken_at(&without_query(uri), error)
    }

    /// An error of the HTTP library in our words.
    pub(super) fn broken_at(&self, url: &str, error: ureq::Error) -> RegistryError {
        let url = url.to_owned();
        let why = match error {
            ureq::Error::Timeout(Timeout::Connect) => format!("no connection in {CONNECT:?}"),
            ureq::Error::Timeout(_) => {
                let seconds = self.access.patience.idle.as_secs();
                return RegistryError::Silent { url, seconds };
            }
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::Rustls(error) => error.to_string(),
            error => error.to_string(),
        };
        RegistryError::Connection { url, why: shown(&why) }
    }
}

/// Whom this machine trusts to say who a server is.
fn authorities() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs().certs;
    found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
}

/// An address as it may be shown: queries of redirects hold signatures.
pub(super) fn without_query(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}{}", uri.scheme_str().unwrap_or("http"), uri.path())
}

/// The first message of an error's body (distribution specification, "Error codes"), with a colon in
/// front; nothing if there is none.
fn words(response: Response<Body>) -> String {
    let mut body = Vec::new();
    let reader = response.into_body().into_reader();
    // An error's words are a courtesy: without them there is still its number.
    let _ = reader.take(MAX_WORDS_BYTES).read_to_end(&mut body);
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let first = &json["errors"][0];
    let word =
        |key: &str| first[key].as_str().or(json[key].as_str()).filter(|word| !word.is_empty());
    let said = word("message").or(word("code")).or(word("details")).or(word("error"));
    said.map(|said| format!(": {}", shown(said))).unwrap_or_default()
}

/// Words of others on a terminal: one line, and not a long one.
pub(super) fn shown(words: &str) -> String {
    let calm = |c: char| if c.is_control() { ' ' } else { c };
    words.chars().take(MAX_WORDS_SHOWN).map(calm).collect()
}
