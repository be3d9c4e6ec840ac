"""A time zone as whole seconds: what its clock reads at an instant, and when it reads a time.

An *instant* is seconds since 1970-01-01 UTC. A *wall* time is what the clock shows, as seconds
since its own 1970-01-01T00:00, so ``wall = instant + offset``. Clocks that go forward leave a
gap of wall times that are never shown; clocks that go back show some twice.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from mesh.errors import InvalidSchedule, did_you_mean

__all__ = ["EPOCH", "MAX_WALL", "MIN_WALL", "Zone", "zone_named"]

EPOCH = datetime(1970, 1, 1)
MIN_WALL = int((datetime.min - EPOCH).total_seconds())
MAX_WALL = int((datetime.max - EPOCH).total_seconds())
_DAY = 86_400
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)


class Zone:
    """One zone, by its IANA name."""

    __slots__ = ("info", "name")

    def __init__(self, name: str, info: tzinfo) -> None:
        self.name = name
        self.info = info

    def moment(self, microseconds: int) -> datetime:
        """The aware ``datetime`` of an instant, given in microseconds.

        Raises ``OverflowError`` where the zone's clock leaves the years 1 to 9999.
        """
        return (_EPOCH_UTC + timedelta(microseconds=microseconds)).astimezone(self.info)

    def offset(self, instant: int) -> int:
        """Seconds that the clock is ahead of UTC at an instant."""
        utc = EPOCH + timedelta(0, max(MIN_WALL + _DAY, min(instant, MAX_WALL - _DAY)))
        shown = self.info.fromutc(utc.replace(tzinfo=self.info))
        ahead = shown.replace(tzinfo=None) - utc
        return ahead.days * _DAY + ahead.seconds

    def offsets(self, wall: int) -> tuple[int, int]:
        """The offsets at which the clock shows ``wall``: the earlier pass's, the later pass's.

        They are the same but for times shown twice (the first is larger) and times in a gap (the
        first, from before the change, is smaller).
        """
        shown = EPOCH + timedelta(0, wall)
        first = self.info.utcoffset(shown)
        last = self.info.utcoffset(shown.replace(fold=1))
        assert first is not None
        assert last is not None
        if first == last:
            seconds = first.days * _DAY + first.seconds
            return seconds, seconds
        return first.days * _DAY + first.seconds, last.days * _DAY + last.seconds

    def first(self, wall: int) -> int:
        """The first instant that shows ``wall``; for one in a gap, the first after the gap."""
        before, after = self.offsets(wall)
        if before >= after:
            return wall - before
        return self.change(wall - after, wall - before)

    def change(self, low: int, high: int) -> int:
        """The first instant after ``low`` with another offset than ``low``'s, at most ``high``.

        There must be exactly one change of offset in between.
        """
        offset = self.offset(low)
        while high - low > 1:
            middle = (low + high) // 2
            if self.offset(middle) == offset:
                low = middle
            else:
                high = middle
        return high


@lru_cache(maxsize=1024)
def zone_named(name: str) -> Zone:
    """The zone of an IANA name; the case of its letters does not matter.

    Raises ``InvalidSchedule`` for any other name, with the nearest that there is.
    """
    if not isinstance(name, str):
        raise InvalidSchedule(f"timezone={name!r}: must be an IANA name, such as 'Europe/London'")
    if name == "UTC":
        return Zone("UTC", UTC)
    try:
        info = ZoneInfo(name)
    # A folder of the data base, such as "Europe", is an OSError.
    except (KeyError, ValueError, OSError):
        pass
    else:
        # A file system that ignores case finds "europe/london" too: then look for its real name.
        if name != name.lower():
            return Zone(name, info)
    known = available_timezones() | {"UTC"}
    for candidate in known:
        if candidate.casefold() == name.casefold():
            return (
                Zone(candidate, UTC) if candidate == "UTC" else Zone(candidate, ZoneInfo(candidate))
            )
    if (iana := WINDOWS.get(name.casefold())) is not None:
        hint = f" is a Windows name; the IANA name is '{iana}'"
    elif not known - {"UTC"}:
        hint = ": no time zone data is installed; pip install tzdata"
    else:
        hint = " is unknown" + (_nearest(name, known) or ", use an IANA name like 'Europe/London'")
    raise InvalidSchedule(f"time zone '{name}'{hint}", name)


def _nearest(name: str, known: set[str]) -> str:
    """A suggestion: for a city without its continent, or a misspelt name."""
    city = name.replace(" ", "_").casefold()
    for candidate in sorted(known):
        if candidate.casefold().rpartition("/")[2] == city.rpartition("/")[2]:
            return f"; did you mean '{candidate}'?"
    folded = {candidate.casefold(): candidate for candidate in known}
    hint = did_you_mean(city, folded)
    near = hint.partition("'")[2].rpartition("'")[0]
    return f"; did you mean '{folded[near]}'?" if near in folded else ""


def _windows() -> dict[str, str]:
    pairs = (line.split("=") for line in _WINDOWS.strip().splitlines())
    return {
        (name if name.startswith("UTC") else f"{name} Standard Time").casefold(): iana
        for name, iana in pairs
    }


# What Windows calls them, without "Standard Time", and the IANA zone of the same clock.
_WINDOWS = """
Dateline=Etc/GMT+12
UTC-11=Etc/GMT+11
Aleutian=America/Adak
Hawaiian=Pacific/Honolulu
Marquesas=Pacific/Marquesas
Alaskan=America/Anchorage
UTC-09=Etc/GMT+9
Pacific=America/Los_Angeles
Pacific Mexico=America/Tijuana
UTC-08=Etc/GMT+8
US Mountain=America/Phoenix
Mountain Mexico=America/Mazatlan
Mountain=America/Denver
Yukon=America/Whitehorse
Central America=America/Guatemala
Central=America/Chicago
Central Mexico=America/Mexico_City
Canada Central=America/Regina
Easter Island=Pacific/Easter
SA Pacific=America/Bogota
Eastern Mexico=America/Cancun
Eastern=America/New_York
Haiti=America/Port-au-Prince
Cuba=America/Havana
US Eastern=America/Indianapolis
Turks and Caicos=America/Grand_Turk
Paraguay=America/Asuncion
Atlantic=America/Halifax
Venezuela=America/Caracas
Central Brazilian=America/Cuiaba
SA Western=America/La_Paz
Pacific SA=America/Santiago
Newfoundland=America/St_Johns
Tocantins=America/Araguaina
E. South America=America/Sao_Paulo
SA Eastern=America/Cayenne
Argentina=America/Argentina/Buenos_Aires
Greenland=America/Nuuk
Montevideo=America/Montevideo
Magallanes=America/Punta_Arenas
Saint Pierre=America/Miquelon
Bahia=America/Bahia
UTC-02=Etc/GMT+2
Azores=Atlantic/Azores
Cape Verde=Atlantic/Cape_Verde
GMT=Europe/London
Greenwich=Atlantic/Reykjavik
Sao Tome=Africa/Sao_Tome
Morocco=Africa/Casablanca
W. Europe=Europe/Berlin
Central Europe=Europe/Budapest
Romance=Europe/Paris
Central European=Europe/Warsaw
W. Central Africa=Africa/Lagos
Jordan=Asia/Amman
GTB=Europe/Bucharest
Middle East=Asia/Beirut
Egypt=Africa/Cairo
E. Europe=Europe/Chisinau
Syria=Asia/Damascus
West Bank=Asia/Hebron
South Africa=Africa/Johannesburg
FLE=Europe/Kyiv
Israel=Asia/Jerusalem
South Sudan=Africa/Juba
Kaliningrad=Europe/Kaliningrad
Sudan=Africa/Khartoum
Libya=Africa/Tripoli
Namibia=Africa/Windhoek
Arabic=Asia/Baghdad
Turkey=Europe/Istanbul
Arab=Asia/Riyadh
Belarus=Europe/Minsk
Russian=Europe/Moscow
E. Africa=Africa/Nairobi
Iran=Asia/Tehran
Arabian=Asia/Dubai
Astrakhan=Europe/Astrakhan
Azerbaijan=Asia/Baku
Russia Time Zone 3=Europe/Samara
Mauritius=Indian/Mauritius
Saratov=Europe/Saratov
Georgian=Asia/Tbilisi
Volgograd=Europe/Volgograd
Caucasus=Asia/Yerevan
Afghanistan=Asia/Kabul
West Asia=Asia/Tashkent
Ekaterinburg=Asia/Yekaterinburg
Pakistan=Asia/Karachi
Qyzylorda=Asia/Qyzylorda
India=Asia/Kolkata
Sri Lanka=Asia/Colombo
Nepal=Asia/Kathmandu
Central Asia=Asia/Bishkek
Bangladesh=Asia/Dhaka
Omsk=Asia/Omsk
Myanmar=Asia/Yangon
SE Asia=Asia/Bangkok
Altai=Asia/Barnaul
W. Mongolia=Asia/Hovd
North Asia=Asia/Krasnoyarsk
N. Central Asia=Asia/Novosibirsk
Tomsk=Asia/Tomsk
China=Asia/Shanghai
North Asia East=Asia/Irkutsk
Singapore=Asia/Singapore
W. Australia=Australia/Perth
Taipei=Asia/Taipei
Ulaanbaatar=Asia/Ulaanbaatar
Aus Central W.=Australia/Eucla
Transbaikal=Asia/Chita
Tokyo=Asia/Tokyo
North Korea=Asia/Pyongyang
Korea=Asia/Seoul
Yakutsk=Asia/Yakutsk
Cen. Australia=Australia/Adelaide
AUS Central=Australia/Darwin
E. Australia=Australia/Brisbane
AUS Eastern=Australia/Sydney
West Pacific=Pacific/Port_Moresby
Tasmania=Australia/Hobart
Vladivostok=Asia/Vladivostok
Lord Howe=Australia/Lord_Howe
Bougainville=Pacific/Bougainville
Russia Time Zone 10=Asia/Srednekolymsk
Magadan=Asia/Magadan
Norfolk=Pacific/Norfolk
Sakhalin=Asia/Sakhalin
Central Pacific=Pacific/Guadalcanal
Russia Time Zone 11=Asia/Kamchatka
New Zealand=Pacific/Auckland
UTC+12=Etc/GMT-12
Fiji=Pacific/Fiji
Chatham Islands=Pacific/Chatham
UTC+13=Etc/GMT-13
Tonga=Pacific/Tongatapu
Samoa=Pacific/Apia
Line Islands=Pacific/Kiritimati
"""
WINDOWS = _windows()
