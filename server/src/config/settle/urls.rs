//! Where a member listens and can be reached, and what its pages are open to.

use super::super::AllowList;
use super::super::mistake::Problem;
use super::super::url::{MemberUrl, UrlError};
use super::Settling;

impl Settling<'_> {
    pub(super) fn urls(
        &mut self,
        flag: &'static str,
        default: &str,
        check: impl Fn(&MemberUrl) -> Result<(), UrlError>,
    ) -> Option<Vec<MemberUrl>> {
        let parsed = MemberUrl::parse_list(self.given.text(flag).unwrap_or(default));
        match parsed.and_then(|urls| urls.iter().try_for_each(&check).map(|()| urls)) {
            Ok(urls) => Some(urls),
            Err(error) => {
                self.mistake(flag, error);
                None
            }
        }
    }

    pub(super) fn listen_urls(
        &mut self,
        flag: &'static str,
        default: &str,
    ) -> Option<Vec<MemberUrl>> {
        self.urls(flag, default, MemberUrl::check_bindable)
    }

    /// None by default.
    pub(super) fn more_listen_urls(&mut self, flag: &'static str) -> Option<Vec<MemberUrl>> {
        match self.given.text(flag) {
            None | Some("") => Some(Vec::new()),
            Some(_) => self.listen_urls(flag, ""),
        }
    }

    pub(super) fn http_urls_stand_alone(
        &mut self,
        all: Option<&[MemberUrl]>,
        http: Option<&[MemberUrl]>,
    ) {
        let (all, http) = (all.unwrap_or_default(), http.unwrap_or_default());
        let same = |one: &MemberUrl| all.iter().any(|other| other.place() == one.place());
        if let Some(url) = http.iter().find(|url| same(url)) {
            let url = url.clone();
            self.mistake("listen-client-http-urls", Problem::BothOn { url });
        }
    }

    pub(super) fn advertised_urls(
        &mut self,
        flag: &'static str,
        default: &str,
    ) -> Option<Vec<MemberUrl>> {
        self.urls(flag, default, MemberUrl::check_dialable)
    }

    pub(super) fn cors(&mut self) -> AllowList {
        let origins = AllowList::parse(self.given.text("cors").unwrap_or("*"));
        let wrong = |origin: &str| origin != "*" && !is_origin(origin);
        if let Some(origin) = origins.names().find(|origin| wrong(origin)) {
            let origin = origin.to_owned();
            self.mistake("cors", Problem::NotAnOrigin { origin });
        }
        origins
    }

    pub(super) fn extensive_metrics(&mut self) -> bool {
        match self.given.text("metrics").unwrap_or("basic") {
            "basic" => false,
            "extensive" => true,
            _ => {
                let allowed = "basic or extensive";
                self.mistake("metrics", Problem::Choice { allowed });
                false
            }
        }
    }
}

/// As browsers write one: a scheme and a host, maybe with a port.
fn is_origin(given: &str) -> bool {
    let rest = given
        .strip_prefix("http://")
        .or_else(|| given.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '?', '#', ' ', '@']))
}
