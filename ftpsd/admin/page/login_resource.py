"""The resource with which an administrator gets a login to the page: LoginResource."""

from __future__ import annotations

from ftpsd.admin.api import schemas
from ftpsd.admin.api.routes import Answer, Call, Route, answer
from ftpsd.admin.page.server import Page

_ANSWER = schemas.record(url=schemas.STRING, seconds=schemas.COUNT)


class LoginResource:
    """Logins to a page. The page needs the API, and the API this resource: so `page` is set when both are made."""

    page: Page

    def routes(self) -> list[Route]:
        """Return the routes of this subject."""
        summary = "Make a link that logs a browser in to the page, once"
        return [Route("POST", "/v1/page/logins", self._make, summary, _ANSWER, 201, problems=[409])]

    async def _make(self, call: Call) -> Answer:
        return answer(self.page.make_login(call.administrator), 201)
