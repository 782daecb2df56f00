"""What a hostile model writes: text that would act if a page took it for anything but text."""

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\u2028 &lt;"


def hostile(step: int, distribution: str, tokens: int) -> str:
    return f"{HOSTILE} of step-{step}"
