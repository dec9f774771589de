"""The templates of the report page and of runs side by side, in Jinja's language; report.py and side_by_side.py fill
them."""

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 46rem; margin: 0 auto;
  padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin-top: 2rem }
h3 { font-size: 1rem; margin-top: 1.5rem }
.value { font-size: 1.3rem } figure { margin: 1rem 0 } figcaption, .small { font-size: .875rem; color: #555 }
svg { width: 100%; height: auto; max-width: 36rem } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem } th, td { text-align: left; padding: .25rem .8rem .25rem 0;
  border-bottom: 1px solid #ddd; vertical-align: top } td.n { font-variant-numeric: tabular-nums; white-space: nowrap }
ul.checks { list-style: none; padding: 0 } ul.checks li { margin: .5rem 0; padding-left: 4.2rem; text-indent: -4.2rem }
.v { display: inline-block; width: 3.6rem; margin-right: .6rem; text-indent: 0; text-align: center;
  border-radius: .25rem; color: #fff; font-size: .8rem; font-weight: 600 }
.pass { background: #00694d } .warn { background: #8a5a00 } .fail { background: #a93e00 }
td .small { font-size: inherit } details { margin: 1rem 0 } summary { cursor: pointer } code { overflow-wrap: anywhere }
@media (max-width: 34rem) { table { font-size: .8rem } th, td { padding-right: .4rem } td.n { white-space: normal }
  .runs th { overflow-wrap: anywhere; min-width: 5rem } }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #1a1a1a } figcaption, .small { color: #aaa } th, td { border-color: #444 }
  svg { filter: invert(.9) hue-rotate(180deg) } .v { color: #fff }
}
</style>
</head>
<body>
<main>
"""

PAGE = (
    HEAD
    + """{% macro badge(verdict) %}<span class="v {{ verdict }}">{{ verdict }}</span>{% endmacro %}
{% macro listed(found) %}<ul class="checks">
{% for c in found %}<li>{{ badge(c.verdict) }}<strong>{{ c.name }}</strong>: {{ c.sentence }}</li>
{% endfor %}</ul>{% endmacro %}
{% macro checks(found) %}{% set doubts = found | rejectattr("verdict", "equalto", "pass") | list %}
{% set passed = found | selectattr("verdict", "equalto", "pass") | list %}
{% if doubts %}{{ listed(doubts) }}{% endif %}
{% if passed %}<details><summary>{{ passed | length }} of {{ found | length }} checks passed</summary>
{{ listed(passed) }}</details>{% endif %}{% endmacro %}
{% macro estimate(e, told) %}
<p class="value"><strong>{{ e.statement }}</strong></p>
<p>Value {{ nats(e.mi) }} nats, 95 % interval [{{ nats(e.interval[0]) }}, {{ nats(e.interval[1]) }}],
<strong>{{ "trusted" if e.trusted else "NOT TRUSTED" }}</strong>; in bits: {{ e.bits.statement.partition(";")[0] }}
{%- if e.p_value is not none %}; p = {{ "%.3g" | format(e.p_value) }} for independence{% endif %}
{%- if e.normalised is not none %}; {{ nats(e.normalised) }} where 1 is complete dependence{% endif %}.</p>
<p>{{ told }} {{ e.method }}; {{ e.shared_out }}.</p>
<figure>{{ axis(e) }}<figcaption>In nats. The floor holds with 95 % confidence whatever the critic; above the ceiling,
log of {{ e.splits[2] }} report pairs, nothing can be certified.{% if e.cap is not none %} The cap is an
upper bound, of a label the entropy that its shares in these pairs give.{% endif %}</figcaption></figure>
{{ checks(e.checks) }}
{% if e.protocol.get("audit") %}<details><summary>What each estimate of the audit gave</summary>
<div class="scroll" tabindex="0">
<table><thead><tr><th>estimate</th><th>nats</th><th>95 % interval</th><th>pairs</th></tr></thead><tbody>
{% for name, r in e.protocol["audit"].items() %}<tr><td>{{ name }}</td><td class="n">{{ nats(r.mi) }}</td>
<td class="n">[{{ nats(r.interval[0]) }}, {{ nats(r.interval[1]) }}]</td><td class="n">{{ r.n }}</td></tr>
{% endfor %}</tbody></table></div></details>{% endif %}
{% if e.protocol.get("scores") %}<figure>{{ scores(e.protocol["scores"]) }}<figcaption>Scores, in nats, of
{{ e.protocol["scores"]["pairs"] }} held-out pairs (positives) and of all others among their rows (negatives). The less
they overlap, the higher the MI; where they do not, few negatives decide a value that leans on them.</figcaption>
</figure>{% endif %}
<details><summary>Protocol</summary><div class="scroll" tabindex="0"><table><tbody>
{% for key, v in protocol(e) %}<tr><th scope="row">{{ key }}</th><td>{{ v }}</td></tr>
{% endfor %}</tbody></table></div></details>
{% endmacro %}
{% macro training() %}
{% if curve %}<h2>Training</h2>
<figure>{{ curve }}<figcaption>The objective's value on each training batch, in nats: what was maximised, and no
estimate of MI.</figcaption></figure>{% endif %}
{% if health %}<h2>Health</h2>
<figure>{{ health }}<figcaption>Of features of held-out samples, without labels but for kNN. Collapse shows as a RankMe
near 1, a deviation and a uniformity near 0, and an MI of 0.</figcaption></figure>{% endif %}
{% endmacro %}
{% macro table(rows) %}
<div class="scroll" tabindex="0"><table><thead>
<tr><td></td>{% for cell in rows[0][1:] %}<th>{{ cell }}</th>{% endfor %}</tr></thead><tbody>
{% for row in rows[1:] %}<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td class="n">{{ cell }}</td>
{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endmacro %}
{% macro classes() %}
{% if balance.unbalanced %}<p>Classes are unbalanced: always answering {{ balance.majority }} is right for
{{ percent(balance.share) }} % of the test images. Balanced accuracy, the mean over classes of the % that is right of
each:</p>
<div class="scroll" tabindex="0"><table><thead><tr><td></td>{% for name in columns %}<th>{{ name }}</th>
{% endfor %}</tr></thead><tbody>
{% for name, row in balanced %}<tr><th scope="row">{{ name }}</th>{% for cell in row %}<td class="n">{{ cell }}</td>
{% endfor %}</tr>{% endfor %}</tbody></table></div>{% endif %}
<h3>By class</h3>
{% if balance.confusion is not none %}<figure>{{ confusion(balance) }}<figcaption>Of the test images of each class
(rows), the % that the linear probe of the trained encoder takes for each class (columns).</figcaption></figure>
{% endif %}
<details><summary>Each class, by the linear probe of the trained encoder</summary><div class="scroll" tabindex="0">
<table><thead><tr><th>class</th><th>training images</th><th>test images</th><th>% right of them</th>
<th>95 % interval</th><th>% right of what is taken for it</th></tr></thead><tbody>
{% for c in balance.classes %}<tr><th scope="row">{{ c.name }}</th><td class="n">{{ c.train }}</td>
<td class="n">{{ c.test }}</td><td class="n">{{ percent(c.recall) }}</td>
<td class="n">{% if c.recall_interval is none %}-{% else %}[{{ percent(c.recall_interval[0]) }},
{{ percent(c.recall_interval[1]) }}]{% endif %}</td>
<td class="n">{{ percent(c.precision) }}</td></tr>
{% endfor %}</tbody></table></div></details>
{% endmacro %}
<h1>{{ title }}</h1>
<p class="small">{{ subtitle }}</p>
{% if terms is none %}
{% if value is string %}<p>I(X; Y), not measured: {{ value }}</p>
{% else %}{{ estimate(value, told or value.quantity ~ ".") }}{% endif %}
{% if retrieval %}<h2>Retrieval</h2>
<p>% of {{ pairs }} held-out pairs whose right candidate is among the k best of all, with 95 % intervals.</p>
<div class="scroll" tabindex="0"><table><thead>
<tr><td></td>{% for k in retrieval[0][1] %}<th>recall@{{ k }}</th>{% endfor %}</tr>
</thead><tbody>{% for name, row in retrieval %}<tr><th scope="row">{{ name }}</th>
{% for cell in row.values() %}<td class="n">{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endif %}{{ training() }}{% else %}
{% set who = terms.identity %}
{% if who is string %}<h2>I(J; Z), which image a view shows</h2>
<p>Not measured: {{ who }}</p>
{% elif who is not none %}<h2>I(J; Z), which of {{ who.among }} images a view shows</h2>
<p class="value"><strong>{{ who.statement }}</strong></p>
<p>Value {{ nats(who.mi) }} nats, 95 % interval [{{ nats(who.interval[0]) }}, {{ nats(who.interval[1]) }}], whose upper
end is extrapolated from half of the views and all; the lower bound and log {{ who.among }} hold whatever the
features.</p>
<p>Of {{ who.images }} held-out images in groups of {{ who.among }}: how far the features of a random view tell which
image of its group it shows. {{ "%.0f" | format(who.told_apart) }} images, each always told from the others, would give
as many nats.</p>
<figure>{{ identity(who) }}<figcaption>In nats, among N images: what a classifier reads, fitted on {{ who.views }} views
of each, and the most that there can be, log N. The mark is the value, with its 95 % interval.</figcaption></figure>
{{ checks(who.checks) }}{% endif %}
<h2>I(Z1; Z2) of two views</h2>
{% if terms.mi is string %}<p>Not measured: {{ terms.mi }}</p>
{% else %}{{ estimate(terms.mi, "Between features of two augmented views of held-out images.") }}{% endif %}
{% if probes is string %}<h2>Probes</h2>
<p>Not measured: {{ probes }}</p>
{% elif probes is not none %}<h2>Probes</h2>
<p>% right of {{ probes.trained.protocol["test_images"] }} test images, on frozen features, with 95 % intervals. All
choices were made on training images.</p>
<div class="scroll" tabindex="0"><table><thead><tr><td></td>{% for name in columns %}<th>{{ name }}</th>
{% endfor %}</tr></thead><tbody>
{% for name, row in rows %}<tr><th scope="row">{{ name }}</th>{% for cell in row %}<td class="n">{{ cell }}</td>
{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% if left_out %}<p>{{ left_out }}</p>{% endif %}
{% if by_label %}{% set found = probes.trained.retrieval %}<h3>Retrieval by label</h3>
<p>{{ found.queries }} test images find those of their label among the {{ found.gallery }} others by the cosine of
features, in %, with 95 % intervals: queries with one among the k nearest (recall@k), mean average precision (mAP).</p>
{{ table(by_label) }}{% if found.said %}<p>{{ found.said }}</p>{% endif %}{% endif %}
{% if balance is not none %}{{ classes() }}{% endif %}{% endif %}
{% if targets %}<h2>Targets</h2>
<p>Predicted from frozen features by ridge regression, on test images, with 95 % intervals: R2 of a number (1 is exact,
0 no better than the mean), mean average precision (mAP) of several words.</p>
{{ table(targets) }}
{% for line in without_interval %}<p>{{ line }}</p>{% endfor %}
{% for p in unmeasured %}<p>{{ p.name }}: not measured: {{ p.protocol["reason"] }}</p>{% endfor %}{% endif %}
{{ training() }}
{% for name, told, term in others %}<h2>{{ name }}</h2>
{% if term is string %}<p>Not measured: {{ term }}</p>{% else %}{{ estimate(term, told) }}{% endif %}{% endfor %}
{% if terms.chain is not none %}<h2>Along the layers</h2>
{% if terms.chain is string %}<p>Not measured: {{ terms.chain }}</p>{% else %}
<p>I(layer of view 1; Z of view 2). Each layer is a function of the one before, so MI can only fall.</p>
<figure>{{ chain(terms.chain.layers) }}<figcaption>In nats, with 95 % intervals; filled where trusted.</figcaption>
</figure>
{{ checks([terms.chain.check]) }}
<div class="scroll" tabindex="0"><table><thead>
<tr><th>layer</th><th>nats</th><th>95 % interval</th><th>why not trusted</th></tr>
</thead><tbody>
{% for name, e in terms.chain.layers %}<tr><th scope="row">{{ name }}</th><td class="n">{{ nats(e.mi) }}</td>
<td class="n">[{{ nats(e.interval[0]) }}, {{ nats(e.interval[1]) }}]</td><td>{{ e.reasons | join(" ") }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}{% endif %}
{% endif %}
<p class="small">Written by infomax {{ version }}.</p>
</main>
</body>
</html>
"""
)

COMPARISON = (
    HEAD
    + """<h1>{{ title }}</h1>
<p class="small">{{ subtitle }}</p>
<p>Differences are from {{ runs[0].label }}, with 95 % intervals{% if bold %}; those that leave 0 out, between
trusted values, are bold{% endif %}.</p>
{% for run in runs if run.why_apart %}<p><strong>{{ run.why_apart }}</strong></p>{% endfor %}
<div class="scroll" tabindex="0"><table class="runs"><thead>
<tr><td></td>{% for run in runs %}<th>{{ run.label }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}<td class="n">
{{ cell.value }}{% if not cell.trusted %}, <strong>NOT TRUSTED</strong>{% endif %}
{% if cell.difference %}<br>{% if cell.sure %}<strong>{{ cell.difference }}</strong>{% else %}
<span class="small">{{ cell.difference }}</span>{% endif %}{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p class="small">{% for how in hows %}{{ how }}{% endfor %}</p>
{% if curves %}<h2>While they trained</h2>
<figure>{{ curves }}<figcaption>Values of different objectives are not the same quantity, and are not to be compared
with each other; the other panels are.</figcaption></figure>{% endif %}
{% for run in runs if run.reasons %}<p>{{ run.label }}: {{ run.reasons }}</p>{% endfor %}
<p class="small">Written by infomax {{ version }}.</p>
</main>
</body>
</html>
"""
)
