# ruff: noqa: RUF001 - the dashes that teachers write are the point
"""Rationales cut by hand: numbered lists, bullets, markdown and LaTeX.

Owns labels only; the rule they follow and their marks are in `labelled_rationales`.
"""

MARKED = {
    "numbered list": r"""
1. Find the cost of the pens: 4 * 2 = 8.¦
2. Find the cost of the books: 3 * 5 = 15.¦
3. Add them: 8 + 15 = 23.¦
The answer is 23.
%%
Step 1: Count the legs of the dogs, 5 * 4 = 20.¦
Step 2: Count the legs of the birds, 3 * 2 = 6.¦
Step 3: Add both numbers to get 26.¦
Answer: 26
%%
Here is the plan:¦
1) Work out the total.¦
2) Subtract what was spent.¦

The total is 40 and 15 was spent.¦

So the answer is 25.
%%
(1) The sum of the angles is 180.¦
(2) Two of them are 60 and 50.¦
(3) The third is 180 - 110 = 70.¦
Therefore, the answer is 70.
%%
1. The shop opens at 9.¦ It closes at 17.¦
2. That is 8 hours a day.¦
3. In 5 days it is open for 40 hours.¦
#### 40
%%
Step 1. Let x be the smaller number.¦
Step 2. Then x + (x + 4) = 20.¦
Step 3. So 2x = 16 and x = 8.¦

The final answer is 8.
%%
a) The red box weighs 3 kg.¦
b) The blue box weighs twice as much, 6 kg.¦
c) Both weigh 9 kg.¦
The answer is 9 kg.
%%
1. Plants need light.¦ 2. A dark room has no light.¦ 3. So the plant will die.¦ The answer is die.
""",
    "bullets": r"""
- Pencils: 12¦
- Pens: 8¦
- Both together: 20¦

The answer is 20.
%%
Known facts:¦
* The train is 100 m long.¦
* It moves at 20 m per second.¦
* The bridge is 300 m long.¦

The whole way is 100 + 300 = 400 m.¦ This takes 400 / 20 = 20 seconds.¦

So the answer is 20 seconds.
%%
• Monday: 3 hours¦
• Tuesday: 4 hours¦
• Wednesday: 5 hours¦
• Sum: 12 hours¦
Answer: 12
%%
- A whale is a mammal.¦ It breathes air.¦
- A shark is a fish.¦ It has gills.¦
- Only the shark can stay below.¦
Thus the correct answer is shark.
%%
What we know:¦
- 3 adults pay $10 each, which makes $30.¦
  - One of them has a voucher for $5.¦
  - So the adults pay $25.¦
- 2 children pay $6 each, which makes $12.¦

In all they pay $37.¦

#### 37
%%
+ Each row has 9 seats.¦
+ There are 11 rows.¦
+ 9 * 11 = 99.¦
+ So the answer is 99.
%%
– The jar holds 50 beans.¦
– 20 of them are black.¦
– The others are white, so 30 are white.¦
The answer is 30.
%%
- Start with 90.¦
- Half of that is 45.¦
- Take a third: 15.¦
""",
    "markdown": r"""
**Step 1: Find the price of one pen**
A pack of 4 costs $6, so one pen costs $1.50.¦

**Step 2: Find the price of ten pens**
Ten pens cost 10 * $1.50 = $15.¦

**Final Answer:** $15
%%
## Understanding the problem
We need the number of days.¦

## Solving it
There are 3 weeks of 7 days.¦ That makes 21 days.¦

## Answer
21
%%
### Step 1: Add the apples
5 + 6 = 11¦

### Step 2: Remove the bad ones
11 - 2 = 9¦

### Final Answer
**9**
%%
Let's think about this *carefully*.¦

1. **Speed**: the car drives 60 km/h.¦
2. **Time**: it drives for 2 hours.¦
3. **Distance**: 60 * 2 = **120 km**.¦

**Answer: 120 km**
%%
> How many sides do 3 squares have?¦

A square has `4` sides.¦ So 3 squares have `3 * 4 = 12` sides.¦

The answer is **12**.
%%
**Given:**¦
- *a* = 7¦
- *b* = 5¦

**To find:** a + b¦

**Solution:** 7 + 5 = 12.¦

Therefore, **the answer is 12**.
%%
# Plan
First the total, then the mean.¦

---

The total is 10 + 20 + 30 = 60.¦

---

The mean is 60 / 3 = 20.¦

So the final answer is **20**.
%%
The **first** shop sells 30 loaves.¦ The **second** sells twice as many: **60**.¦

**Together they sell 90 loaves.**¦

__The answer is 90.__
""",
    "latex": r"""
We solve \( 2x + 3 = 11 \).¦ Subtracting 3 gives \( 2x = 8 \).¦ Dividing by 2 gives \( x = 4 \).~
¦ The answer is \( \boxed{4} \).
%%
The area of the circle is
\[ A = \pi r^2. \]¦
With \( r = 3 \) this is
\[ A = 9\pi. \]¦
Therefore the answer is \( 9\pi \).
%%
Let $a = 3$ and $b = 4$.¦ By Pythagoras, $c^2 = a^2 + b^2 = 25$.¦ Hence $c = 5$.¦

$\boxed{5}$
%%
We have:

\[
\begin{aligned}
3x &= 12 \\
x &= 4.
\end{aligned}
\]¦

Then \( x^2 = 16 \).¦

Hence the final answer is \( \boxed{16} \).
%%
The sum is $$1 + 2 + \dots + n = \frac{n(n+1)}{2}.$$¦ For $n = 10$ we get $55$.¦ So the answer is $55$.
%%
Write the fraction as \(\frac{3}{4} = 0.75\).¦ As a percentage it is \(75\%\).¦ Thus \(x = \boxed{75}\).
%%
The distance is
\[ d = v \cdot t, \]
where \( v \) is the speed.¦
With \( v = 60 \) and \( t = 2.5 \) we get \( d = 150 \).¦
The answer is $150$.
%%
The probability is $\frac{1}{6}$ for each die.¦ Both show a six with probability $\frac{1}{6} \cdot \frac{1}{6}$.~
¦ The answer is $\frac{1}{36}$.
""",
}
