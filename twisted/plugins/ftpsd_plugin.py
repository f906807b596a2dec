"""`twistd ftpsd`. Names the module as text, so that listing the plugins imports nothing of ours."""

from twisted.application.service import ServiceMaker

ftpsd = ServiceMaker("ftpsd", "ftpsd.service", "An FTPS daemon", "ftpsd")
