"""The web console: server-rendered pages over the control plane's services. No build step.

Words
    visit     one request of a signed-in person: who it is, when, and the organization and
              project that stand in the page's head (`visits`).
    page      a view that has a visit; strangers' things are 404 on it, as they are in `access`.
    fragment  a part of a page that asks for itself again (htmx). Events from the API only hasten
              that: whatever is shown was rendered here, and a lost event costs a few seconds.

What always holds
    - A view asks `access`, calls one verb, and renders. It decides nothing of its own.
    - What changes something is a POST with a CSRF token, and names its project or thing itself:
      what another tab has chosen meanwhile does not steer it.
    - Nothing inline: the content security policy admits scripts and styles of this house alone.
    - A secret is in the answer to the request that made it, and nowhere else.
    - Pages work without JavaScript; with it they are alive.
"""
